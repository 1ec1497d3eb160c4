import Glibc
import Testing
import Threading

/// Feeds a reader with what it should not get: the files of a folder of `Corpus`, and random changes of them.
///
/// The same seed gives the same inputs. Without further words each reader gets 1,500 of them, which takes seconds;
/// `CLOUDFUSION_FUZZ_SECONDS=600` gives each that much time, `CLOUDFUSION_FUZZ_SEED=7` other inputs. An input that
/// ends the process or takes longer than ``patience`` is left in a file that is named; put into the folder of the
/// corpus, it is tried first each time.
struct Fuzzer {
    /// Nothing that is read here takes a hundredth of this.
    static let patience: Duration = .seconds(20)

    let name: String
    /// Words that mean something to the reader.
    let words: [String]
    let count: Int

    init(_ name: String, words: [String] = [], count: Int = 1500) {
        self.name = name
        self.words = words
        self.count = count
    }

    /// - Parameter body: answers what is wrong with how an input was taken; nil: nothing.
    func run(_ body: (_ input: [UInt8], _ random: inout SplitMix) throws -> String?) throws {
        let seeds = try corpus()
        let words = self.words.map { Array($0.utf8) } + Self.anywhere
        let seed = number("CLOUDFUSION_FUZZ_SEED").map { UInt64($0) } ?? 1
        var random = SplitMix(seed: seed)
        let record = Record(name)
        let end = number("CLOUDFUSION_FUZZ_SECONDS").map { MonotonicTime.now + .seconds(Int64($0)) }
        var number = 0
        while end.map({ .now < $0 }) ?? (number < count) || number < seeds.count {
            var input: [UInt8]
            if number < seeds.count {
                input = seeds[number]
            } else {
                input = seeds[Int(random.below(seeds.count))]
                for _ in 0...random.below(6) { change(&input, seeds, words, &random) }
            }
            number += 1
            record.begin(input)
            let problem = try body(input, &random)
            record.end()
            if let problem {
                let place = record.keep()
                Issue.record("\(name), seed \(seed), input \(number): \(problem). The input is in \(place)")
                return
            }
        }
        record.remove()
    }

    private func number(_ variable: String) -> Int? { getenv(variable).flatMap { Int(String(cString: $0)) } }

    private func corpus() throws -> [[UInt8]] {
        let source = #filePath
        let folder = source[..<source.lastIndex(of: "/")!] + "/Corpus/" + name
        guard let directory = opendir(String(folder)) else { throw Missing(folder: String(folder)) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        guard !names.isEmpty else { throw Missing(folder: String(folder)) }
        return names.sorted().map { contents("\(folder)/\($0)") }
    }

    private struct Missing: Error { var folder: String }

    private func contents(_ path: String) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return [] }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 65536)
        while case let count = read(descriptor, &buffer, buffer.count), count > 0 { bytes += buffer[..<count] }
        return bytes
    }

    // MARK: Changes

    private static let anywhere: [[UInt8]] =
        [
            "-1", "0", "-0", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
            "18446744073709551616", "4294967296", "1e999", "NaN", "null", "true", "..", "../..", "/", "//", "%", "%00",
            "%2F", "%zz", "\"", "'", "\\", "\n", "\r\n", "\t", " ", "=", "[", "]", "{", "}", "<", ">", "&", "&amp;",
            "&#0;", "&#x10FFFF;", "<![CDATA[", "<!--", "]]>", ";", "#", ",", "\u{0}", "\u{201B}", "\u{FFFD}",
            "\u{FEFF}",
            "e\u{301}", "\u{1F468}\u{200D}\u{1F469}", "١٢٣",
        ].map { Array($0.utf8) } + [[0xFF], [0xC3], [0xED, 0xA0, 0x80], [0xF8, 0x88, 0x80, 0x80, 0x80], [0x80]]

    private func change(
        _ input: inout [UInt8], _ seeds: [[UInt8]], _ words: [[UInt8]], _ random: inout SplitMix
    ) {
        let position = random.below(input.count + 1)
        let rest = input.count - position
        let length = rest == 0 ? 0 : random.below(min(rest, 64)) + 1
        switch random.below(10) {
        case 0 where rest > 0: input[position] ^= 1 << UInt8(random.below(8))
        case 1 where rest > 0: input[position] = UInt8(random.below(256))
        case 2: input.removeSubrange(position..<position + length)
        case 3: input.insert(contentsOf: input[position..<position + length], at: random.below(input.count + 1))
        case 4: input.removeSubrange(position...)
        case 5:
            // A piece of another one.
            let other = seeds[random.below(seeds.count)]
            let start = random.below(other.count + 1)
            let end = start + random.below(other.count - start + 1)
            input.insert(contentsOf: other[start..<end], at: position)
        case 6:
            // A number becomes another one.
            if let first = input[position...].firstIndex(where: { (0x30...0x39).contains($0) }) {
                let end = input[first...].firstIndex { !(0x30...0x39).contains($0) } ?? input.count
                input.replaceSubrange(first..<end, with: words[random.below(words.count)])
            }
        case 7 where length > 0:
            let repeated = Array(input[position..<position + length])
            for _ in 0..<random.below(40) { input.insert(contentsOf: repeated, at: position) }
        default: input.insert(contentsOf: words[random.below(words.count)], at: position)
        }
        if input.count > 1 << 17 { input.removeSubrange((1 << 17)...) }
    }
}

extension SplitMix {
    mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
}

/// Keeps the input that is being read in a file, for the case that nobody comes back from it; and sees to that.
private final class Record: Sendable {
    let path: String
    private let descriptor: Int32
    private let begun = Monitor<MonotonicTime?>(nil)
    private let isOver = Monitor(false)

    init(_ name: String) {
        let folder = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        path = "\(folder)/cloudfusion-fuzz-\(name)-\(getpid())"
        descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        let path = path
        WorkerThread(name: "watchdog") { [begun, isOver] in
            while isOver.wait(until: .now + .seconds(1), for: { $0 ? () : nil }) == nil {
                guard let start = begun.withLock({ $0 }), .now - start > Fuzzer.patience else { continue }
                let message = "An input takes longer than \(Fuzzer.patience): it is in \(path)\n"
                write(2, message, message.utf8.count)
                abort()
            }
        }.detach()
    }

    deinit { close(descriptor) }

    func begin(_ input: [UInt8]) {
        ftruncate(descriptor, 0)
        _ = input.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, 0) }
        begun.withLock { $0 = .now }
    }

    func end() { begun.withLock { $0 = nil } }

    func keep() -> String {
        isOver.update { $0 = true }
        return path
    }

    func remove() {
        isOver.update { $0 = true }
        unlink(path)
    }
}
