import StoreAPI

/// How a body is cut into the parts of an upload: for S3, and for Nextcloud, which takes parts of the same sizes.
///
/// Invariant: the parts are the body, in order; all but the last have at least ``smallest`` bytes, and there are no more
/// than 10,000 of them, or a ninth more than `most`.
struct PartPlan: Sendable {
    struct Piece: Hashable, Sendable {
        /// Index into the body's segments.
        var segment: Int
        /// Of that segment, half-open, in bytes.
        var range: Range<Int64>
    }

    struct Part: Hashable, Sendable {
        var pieces: [Piece] = []
        /// One piece, that the server copies by itself.
        var isCopy = false
        var size: Int64 { pieces.reduce(0) { $0 + $1.range.upperBound - $1.range.lowerBound } }
    }

    /// 8 MiB: a part takes long enough that its request's round trip does not count, and little enough that one that
    /// fails is soon sent again.
    static let usualPart: Int64 = 8 << 20
    /// Large copies are cut so that several go on at once.
    private static let usualCopy: Int64 = 256 << 20

    /// 5 MiB: of a part that is not the last.
    /// Source: S3 User Guide, "Amazon S3 multipart upload limits"; Nextcloud's manual, "Chunked file upload".
    static let smallestPart: Int64 = 5 << 20

    let body: UploadBody
    private(set) var parts: [Part] = []
    private let smallest: Int64

    /// - Parameters:
    ///   - copies: Whether ranges of stored objects are copied by the server; else they are fetched and sent.
    ///   - most: How many parts there may be, but for those that the rounding at the edges of copies adds.
    init(_ body: UploadBody, copies: Bool, most: Int = 9_000) {
        self.body = body
        let mebibyte: Int64 = 1 << 20
        smallest = max(Self.smallestPart, (body.length / Int64(most) + mebibyte - 1) / mebibyte * mebibyte)
        let usual = max(Self.usualPart, smallest)
        var part = Part()
        var size: Int64 = 0
        func flush() {
            if size > 0 { parts.append(part) }
            part = Part()
            size = 0
        }
        func add(_ segment: Int, _ range: Range<Int64>) {
            guard !range.isEmpty else { return }
            part.pieces.append(Piece(segment: segment, range: range))
            size += range.upperBound - range.lowerBound
        }
        for (index, segment) in body.segments.enumerated() {
            var start: Int64 = 0
            let end = segment.length
            if copies, case .stored = segment {
                if size > 0, size < smallest {
                    let taken = min(smallest - size, end)
                    add(index, 0..<taken)
                    start = taken
                }
                if end - start >= smallest {
                    flush()
                    while start < end {
                        var length = min(max(Self.usualCopy, smallest), end - start)
                        let rest = end - start - length
                        if rest > 0, rest < smallest { length -= smallest - rest }
                        parts.append(Part(pieces: [Piece(segment: index, range: start..<start + length)], isCopy: true))
                        start += length
                    }
                } else {
                    add(index, start..<end)
                    if size >= usual { flush() }
                }
            } else {
                while start < end {
                    let length = min(usual - size, end - start)
                    add(index, start..<start + length)
                    start += length
                    if size >= usual { flush() }
                }
            }
        }
        flush()
    }

    /// What tells this plan from others, but for the bytes of local pieces.
    var fingerprint: String {
        parts.map { part in
            (part.isCopy ? "c" : "p")
                + part.pieces.map { piece in
                    switch body.segments[piece.segment] {
                    case .bytes, .file: "l\(piece.range.upperBound - piece.range.lowerBound)"
                    case .stored(let path, let version, let range):
                        "s\(path.bytes) \(version?.text ?? "?") \(range.lowerBound + piece.range.lowerBound) "
                            + "\(piece.range.upperBound - piece.range.lowerBound)"
                    }
                }.joined(separator: "+")
        }.joined(separator: ",")
    }

    /// Whether a part is made of local bytes alone.
    func isLocal(_ part: Part) -> Bool {
        part.pieces.allSatisfy { if case .stored = body.segments[$0.segment] { false } else { true } }
    }

    /// The segment that a piece is, cut to its range.
    func segment(_ piece: Piece) -> UploadBody.Segment {
        switch body.segments[piece.segment] {
        case .bytes(let bytes):
            .bytes(Array(bytes[Int(piece.range.lowerBound)..<Int(piece.range.upperBound)]))
        case .file(let descriptor, let offset, _):
            .file(
                descriptor: descriptor, offset: offset + piece.range.lowerBound,
                length: piece.range.upperBound - piece.range.lowerBound)
        case .stored(let path, let version, let range):
            .stored(
                path: path, version: version,
                range: range.lowerBound + piece.range.lowerBound..<range.lowerBound + piece.range.upperBound)
        }
    }
}
