import StoreAPI

/// The media type of a file, by the end of its name: what browsers and other tools make of an object.
///
/// Source: IANA's registry of media types, as in Debian's /etc/mime.types; the commonest.
enum ContentTypes {
    static let unknown = "application/octet-stream"
    /// What s3fs and others give the markers of directories.
    static let directory = "application/x-directory"

    static func type(of name: FileName) -> String {
        guard let dot = name.bytes.lastIndex(of: UInt8(ascii: ".")), dot > 0, dot + 1 < name.bytes.count,
            name.bytes.count - dot <= 12
        else { return unknown }
        return types[String(decoding: name.bytes[(dot + 1)...], as: UTF8.self).lowercased()] ?? unknown
    }

    private static let types: [String: String] = [
        "7z": "application/x-7z-compressed", "aac": "audio/aac", "avi": "video/x-msvideo", "avif": "image/avif",
        "bmp": "image/bmp", "bz2": "application/x-bzip2", "c": "text/x-csrc", "cc": "text/x-c++src",
        "cpp": "text/x-c++src", "css": "text/css", "csv": "text/csv", "deb": "application/vnd.debian.binary-package",
        "doc": "application/msword",
        "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "eml": "message/rfc822", "eot": "application/vnd.ms-fontobject", "epub": "application/epub+zip",
        "flac": "audio/flac", "gif": "image/gif", "go": "text/x-go", "gz": "application/gzip", "h": "text/x-chdr",
        "heic": "image/heic", "htm": "text/html", "html": "text/html", "ico": "image/vnd.microsoft.icon",
        "ics": "text/calendar", "ini": "text/plain", "iso": "application/x-iso9660-image",
        "jar": "application/java-archive", "java": "text/x-java", "jpeg": "image/jpeg", "jpg": "image/jpeg",
        "js": "text/javascript", "json": "application/json", "jsonl": "application/jsonl", "jxl": "image/jxl",
        "log": "text/plain", "m3u8": "application/vnd.apple.mpegurl", "m4a": "audio/mp4", "m4v": "video/x-m4v",
        "md": "text/markdown", "mid": "audio/midi", "mjs": "text/javascript", "mkv": "video/x-matroska",
        "mov": "video/quicktime", "mp3": "audio/mpeg", "mp4": "video/mp4", "mpd": "application/dash+xml",
        "mpeg": "video/mpeg", "mpg": "video/mpeg", "odp": "application/vnd.oasis.opendocument.presentation",
        "ods": "application/vnd.oasis.opendocument.spreadsheet", "odt": "application/vnd.oasis.opendocument.text",
        "oga": "audio/ogg", "ogg": "audio/ogg", "ogv": "video/ogg", "opus": "audio/ogg", "otf": "font/otf",
        "parquet": "application/vnd.apache.parquet", "pdf": "application/pdf", "php": "text/x-php",
        "pl": "text/x-perl", "png": "image/png", "ppt": "application/vnd.ms-powerpoint",
        "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "ps": "application/postscript", "psd": "image/vnd.adobe.photoshop", "py": "text/x-python",
        "rar": "application/vnd.rar", "rb": "text/x-ruby", "rpm": "application/x-rpm", "rs": "text/rust",
        "rtf": "application/rtf", "sh": "text/x-sh", "sqlite": "application/vnd.sqlite3", "svg": "image/svg+xml",
        "swift": "text/x-swift", "tar": "application/x-tar", "tex": "text/x-tex", "tgz": "application/gzip",
        "tif": "image/tiff", "tiff": "image/tiff", "toml": "application/toml", "ts": "video/mp2t",
        "tsv": "text/tab-separated-values", "ttf": "font/ttf", "txt": "text/plain", "vcf": "text/vcard",
        "wasm": "application/wasm", "wav": "audio/x-wav", "webm": "video/webm", "webp": "image/webp",
        "woff": "font/woff", "woff2": "font/woff2", "xls": "application/vnd.ms-excel",
        "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "xml": "application/xml",
        "xz": "application/x-xz", "yaml": "application/yaml", "yml": "application/yaml", "zip": "application/zip",
        "zst": "application/zstd",
    ]
}
