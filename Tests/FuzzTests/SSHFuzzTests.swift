import Testing

@testable import StoreSSH

/// What SSH servers send, and what others may have written into the files that are read for them.
@Suite("Hostile SSH servers and files")
struct SSHFuzzTests {
    @Test("messages are refused or read, and nothing is longer than the message")
    func messages() throws {
        try Fuzzer("messages", words: ["\u{0}\u{0}\u{0}\u{1}", "posix-rename@openssh.com", ".", ".."]).run { input, _ in
            var assembler = SFTPAssembler()
            do { try input.withUnsafeBytes { try assembler.add($0) } } catch { return nil }
            while let message = assembler.next() {
                _ = try? SFTPConnection.extensions(in: message)
                guard let answer = try? SFTPAnswer(message) else { continue }
                switch answer {
                case .status(_, let text):
                    if text.utf8.count > 3 * message.count { return "a text of \(text.utf8.count) bytes" }
                case .handle(let handle):
                    if handle.bytes.count > message.count { return "a handle of \(handle.bytes.count) bytes" }
                case .data(let bytes, let range):
                    if range.upperBound > bytes.count { return "bytes behind the end" }
                case .names(let names):
                    if names.count > message.count { return "\(names.count) names" }
                case .attributes(let attributes): _ = attributes.kind
                case .extended(let reply):
                    if let space = try? SFTPSpace(reply), min(space.total, space.used, space.free) < 0 {
                        return "negative space: \(space)"
                    }
                }
            }
            return nil
        }
    }

    @Test("a file of known hosts trusts nobody whose key is not in it")
    func hosts() throws {
        try Fuzzer("hosts", words: ["host", "*", "?", "!", ",", "|1|", "@revoked", "[host]:22", "ssh-ed25519", "AAAA"])
            .run {
                input, _ in
                var hosts = KnownHosts()
                hosts.add(input, file: "known_hosts")
                let stranger: [UInt8] = [0, 0, 0, 11] + Array("ssh-ed25519".utf8) + [UInt8](repeating: 250, count: 36)
                for name in ["host", "host.example.org", "10.0.0.1", String(repeating: "a", count: 300)] {
                    if hosts.check(stranger, of: name, port: 2222) == .known { return "a stranger is known as \(name)" }
                    _ = hosts.types(of: name, port: 22)
                }
                return nil
            }
    }

    @Test("a file with a private key is known for one, or not")
    func privateKeys() throws {
        try Fuzzer("privatekeys", words: ["-----BEGIN ", "PRIVATE KEY-----", "OPENSSH ", "ENCRYPTED", "Proc-Type:"]).run
        {
            input, _ in
            _ = PrivateKeyFile(input)
            return nil
        }
    }
}
