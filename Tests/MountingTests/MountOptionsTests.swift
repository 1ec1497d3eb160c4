import Testing

@testable import Mounting

@Suite struct MountOptionsTests {
    @Test("the usual options of mount(8) and settings come in one list")
    func usual() {
        let parsed = MountOptions.parse(["ro,allow_other,nosuid,uid=1000", "umask=027,flat,cache=5,defaults,_netdev"])
        #expect(parsed.problems.isEmpty)
        #expect(parsed.options.isReadOnly && parsed.options.allowOther && parsed.options.isFlat)
        #expect(parsed.options.uid == 1000 && parsed.options.gid == nil)
        #expect(parsed.options.fileMode == 0o640 && parsed.options.directoryMode == 0o750)
        #expect(parsed.options.kernelOptions == ["nosuid"])
        #expect(parsed.settings.map(\.key) == ["cache"] && parsed.settings.map(\.value) == ["5"])
    }

    @Test("a comma that belongs to a value is written with a backslash")
    func comma() {
        #expect(MountOptions.parse([#"prefix=a\,b,ro"#]).settings.map(\.value) == ["a,b"])
    }

    @Test(
        "what nobody knows is an error that names what may be meant",
        arguments: ["alow_other", "uid=me", "umask=9", "threads=0"])
    func unknown(word: String) {
        let parsed = MountOptions.parse([word])
        #expect(parsed.problems.count == 1)
        if word == "alow_other" { #expect(parsed.problems[0].message.contains("'allow_other'")) }
    }
}

@Suite struct CommandWordsTests {
    @Test(
        "words may come in any order",
        arguments: [
            (["/mnt"], ["mount", "/mnt"]),
            (["--config", "a.ini", "/mnt"], ["mount", "--config", "a.ini", "/mnt"]),
            (["/mnt", "stop"], ["stop", "/mnt"]),
            (["stop", "/mnt"], ["stop", "/mnt"]),
            (["/mnt", "sync", "a/b"], ["sync", "/mnt", "a/b"]),
            (["-o", "stop", "/mnt"], ["mount", "-o", "stop", "/mnt"]),
            (["--config", "status", "/mnt"], ["mount", "--config", "status", "/mnt"]),
            (["s3://b/p", "/mnt", "-o", "ro"], ["mount", "s3://b/p", "/mnt", "-o", "ro"]),
            (["--foreground", "/mnt", "mount"], ["mount", "--foreground", "/mnt"]),
            (["/mnt", "foreground", "log"], ["mount", "/mnt", "--foreground", "-o", "log_level=debug"]),
            (["foreground"], ["mount", "foreground"]),
            (["--help"], ["--help"]), (["--version"], ["--version"]), ([], []),
            (["/mnt", "status", "--json"], ["status", "/mnt", "--json"]),
        ])
    func order(given: [String], wanted: [String]) {
        #expect(CommandWords.ordered(given) == wanted)
    }
}
