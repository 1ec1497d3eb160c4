import Caching
import StoreAPI
import Testing

@testable import Mounting

@Suite struct SettingsParserTests {
    let parser = SettingsParser.forTests()
    let minimal = "[auth]\npath = /srv\n[store]\nname = test\n"

    @Test("a file of today gives its settings in their units")
    func units() throws {
        let settings = try parser.parse(
            minimal + "cache = 10 # seconds\nmetadata_cache = 0.5 ; half\ncache_size = 20\nupload_limit = 1.5\n"
        ).settings
        #expect(settings.scheme == "test")
        #expect(settings.uploadDelay == .seconds(10))
        #expect(settings.metadataLifetime == .milliseconds(500))
        #expect(settings.cacheLimits.soft == 20_000_000)
        #expect(settings.cacheLimits.hard == 10_000_000_000)
        #expect(settings.tuning.uploadRate == 1_500_000)
        #expect(settings.tuning.downloadRate == nil)
    }

    @Test("the predecessor's files work: names of stores, aliases, keys without a value, comments")
    func oldFiles() throws {
        let text = """
            [auth]
            # key and secret
            id = AKID
            secret = s3cr3t

            bucket_name = my-bucket
            session_token =

            [store]
            name = Amazon S3
            #How many seconds it may take
            cache = 60
            cache_id = amazon
            """
        let settings = try parser.parse(text).settings
        #expect(settings.scheme == "s3")
        #expect(settings.values["access_key_id"] == "AKID")
        #expect(settings.values["secret_access_key"] == "s3cr3t")
        #expect(settings.values["session_token"] == nil)
        #expect(settings["cache_id"] == "amazon")
    }

    @Test("a key of either section counts in both, in any case, with = or :")
    func sections() throws {
        let settings = try parser.parse("[STORE]\nName: test\npath = /srv\n[auth]\nCACHE : 7\r\n").settings
        #expect(settings.values == ["path": "/srv", "cache": "7"])
    }

    @Test("a typing error is named with file, line, key and what was meant")
    func typos() {
        #expect(
            parser.complaints(minimal + "metadata_cahce = 5\n")
                == ["my.ini:5: there is no setting 'metadata_cahce'; did you mean 'metadata_cache'?"])
        #expect(
            parser.complaints("[stor]\n")
                == ["my.ini:1: there is no section [stor]; the sections are [auth] and [store]; did you mean [store]?"])
        #expect(
            parser.complaints("name = tset\n")
                == ["my.ini:1: there is no store 'tset'; the stores are test, s3; did you mean 'test'?"])
        #expect(
            parser.complaints(minimal + "just words\n") == [
                "my.ini:5: 'just words' is neither a section nor 'key = value'"
            ])
        #expect(
            parser.complaints(minimal + "mode = saef\n")
                == ["my.ini:5: 'mode' must be one of fast, safe, not 'saef'; did you mean 'safe'?"])
        #expect(
            parser.complaints(minimal, options: ["cahce=5"]) == [
                "-o: there is no setting 'cahce'; did you mean 'cache'?"
            ])
    }

    @Test("everything that is wrong is listed, in the order of the text")
    func all() {
        let found = parser.complaints(minimal + "cache = five\ncache_size = -1\ncach = 1\nworkers = 2.5\n[x]\n")
        #expect(found.count == 5)
        #expect(found.map { String($0.prefix(9)) } == (5...9).map { "my.ini:\($0):" })
    }

    @Test(
        "values out of range are refused",
        arguments: [
            "cache = -5", "cache = 99999999999999999999", "cache = inf", "cache = 1e3", "cache = 0x10", "cache = ",
            "cache_size = 0", "workers = 0", "max_workers = 2000", "parts = 101", "log_level = loud", "cache_id = ../x",
            "cache_id = a/b", "drain_at_exit = perhaps", "cache_size = 20000\nhard_cache_size_limit = 10",
            "workers = 10\nmax_workers = 5", "cache = 1\ncache = 2", "cache = 1\ncache_time = 2", "type = chunks",
            "cache = \"1", "= 5", "region = eu",
        ])
    func ranges(line: String) {
        #expect(!parser.complaints(minimal + line + "\n").isEmpty)
    }

    @Test("a duplicate says where the first one is, and what else is wrong with it")
    func duplicates() {
        let found = parser.complaints(minimal + "cache = 1\ncache = soon\n")
        #expect(found.count == 2)
        #expect(found[0] == "my.ini:6: 'cache' was given already in line 5")
        #expect(found[1].contains("'soon'"))
    }

    @Test("what a kind of store needs is asked for, and settings of another one are refused")
    func needed() {
        #expect(parser.complaints("[store]\nname = test\n") == ["my.ini: 'path' is needed for test: The directory."])
        #expect(
            parser.complaints(minimal + "endpoint = http://x\n") == [
                "my.ini:5: 'endpoint' is a setting of s3, not of test"
            ])
        #expect(parser.complaints("endpoint = http://x\n").first?.contains("name = s3") == true)
    }

    @Test("an option of the command line wins over the file, but secrets are not taken from it")
    func commandLine() throws {
        let settings = try parser.parse(minimal + "cache = 5\n", options: ["ro,cache=9", "user=me"]).settings
        #expect(settings["cache"] == "9")
        #expect(settings.values["user"] == "me")
        let found = parser.complaints(minimal, options: ["password=abc"])
        #expect(found.count == 1)
        #expect(found.first?.contains("abc") == false)
    }

    @Test("a masked secret that is written back means the one in force; without one it is an error")
    func masked() throws {
        let old = try parser.parse(minimal + "password = geheim\n").settings
        let new = try parser.parse(minimal + "password = ********\ncache = 1\n", previous: old).settings
        #expect(new.values["password"] == "geheim")
        #expect(parser.complaints(minimal + "password = ********\n").count == 1)
    }

    @Test("quotation marks keep blanks and comment signs")
    func quotes() throws {
        let settings = try parser.parse(minimal + #"password = " a #b \"c\" \\ "  # comment"# + "\nuser = a#b;c\n")
            .settings
        #expect(settings.values["password"] == #" a #b "c" \ "#)
        #expect(settings.values["user"] == "a#b;c")
    }

    @Test("paths: ~ is the home, relative ones begin where the program was started")
    func paths() throws {
        #expect(try parser.parse("name=test\npath=~/x\n").settings.values["path"] == "/home/me/x")
        #expect(try parser.parse("name=test\npath=./x\n").settings.values["path"] == "/work/x")
        let strict = SettingsParser(
            schema: parser.schema, places: SettingsPlaces(home: nil, base: nil, cacheHome: nil))
        #expect(strict.complaints("name=test\npath=x\n").count == 1)
    }

    @Test("hostile texts are refused in one line, without an end of the program")
    func hostile() {
        func complaints(_ bytes: [UInt8]) -> [String] {
            let (assignments, problems) = parser.assignments(in: bytes, named: "f")
            #expect(assignments.isEmpty)
            return problems.map(\.description)
        }
        #expect(complaints([0, 0, 0]).count == 1)
        #expect(complaints([0xff, 0xfe, 0x5b]).count == 1)
        #expect(complaints([UInt8](repeating: 0x78, count: 2 << 20)).count == 1)
        let long = complaints([UInt8](repeating: 0x78, count: 100_000))
        #expect(long.count == 1 && long[0].utf8.count < 200)
        #expect(complaints(Array("cache = 1\u{1}\n".utf8)).count == 1)
        #expect(complaints(Array("a\u{1B}[2J\n".utf8)).allSatisfy { !$0.unicodeScalars.contains("\u{1B}") })
    }

    @Test("a byte order mark and Windows line ends are no part of keys and values")
    func windows() throws {
        let text = "\u{FEFF}[auth]\r\npath = /srv\r\n[store]\r\nname = test\r\ncache = 5\r\n"
        #expect(try parser.parse(text).settings.values == ["path": "/srv", "cache": "5"])
    }

    @Test("random bytes give settings or errors, never an end of the program")
    func random() {
        var generator = SystemRandomNumberGenerator()
        let pieces = [
            "[auth]", "[", "]", "=", "\n", "\"", "\\", "#", " ;", "name", "test", "cache", "\r", "é", "9", " ",
        ]
        for _ in 0..<2_000 {
            let text = (0..<Int.random(in: 0..<40, using: &generator)).map { _ in pieces.randomElement()! }.joined()
            _ = parser.complaints(text)
        }
    }
}

@Suite struct EditDistanceTests {
    @Test("insertions, deletions, replacements and swaps of neighbours count one each")
    func distances() {
        #expect(editDistance("", "") == 0)
        #expect(editDistance("cache", "cache") == 0)
        #expect(editDistance("", "abc") == 3)
        #expect(editDistance("cahce", "cache") == 1)
        #expect(editDistance("cach", "cache") == 1)
        #expect(editDistance("kitten", "sitting") == 3)
    }

    @Test("a word that is like nothing has no nearest one")
    func nothing() {
        #expect(nearest(to: "zzzzz", among: ["cache", "name"]) == nil)
        #expect(nearest(to: "nmae", among: ["cache", "name"]) == "name")
        #expect(nearest(to: String(repeating: "x", count: 100_000), among: ["cache"]) == nil)
    }
}
