import StoreAPI
import StoreHTTP
import Testing

@testable import StoreSSH

@Suite("Messages of SFTP")
struct SFTPMessageTests {
    private func assembled(_ bytes: [UInt8], piece: Int) throws -> [[UInt8]] {
        var assembler = SFTPAssembler()
        var messages: [[UInt8]] = []
        for start in stride(from: 0, to: bytes.count, by: piece) {
            try bytes[start..<min(start + piece, bytes.count)].withUnsafeBytes { try assembler.add($0) }
            while let message = assembler.next() { messages.append(message) }
        }
        return messages
    }

    @Test("messages are put together from pieces of any size", arguments: [1, 2, 3, 5, 7, 100])
    func assembling(piece: Int) throws {
        let first: [UInt8] = [0, 0, 0, 5, 101, 0, 0, 0, 1]
        let second: [UInt8] = [0, 0, 0, 6, 103, 0, 0, 0, 2, 9]
        #expect(try assembled(first + second + first, piece: piece) == [first, second, first].map { Array($0[4...]) })
    }

    @Test(
        "a length that no server sends is refused",
        arguments: [[0, 0, 0, 4], [0x57, 0x65, 0x6c, 0x63], [0, 16, 0, 1]])
    func lengths(head: [UInt8]) {
        #expect(throws: MalformedMessage.self) { try assembled(head + [1, 2, 3, 4, 5], piece: 100) }
    }

    @Test("a request carries its number and its length")
    func requests() throws {
        var request = SFTPRequest.open(Array("a/b".utf8), [.write, .create], permissions: 0o600)
        request.setNumber(0x0102_0304)
        #expect(
            request.bytes == [0, 0, 0, 24, 3, 1, 2, 3, 4, 0, 0, 0, 3] + Array("a/b".utf8) + [
                0, 0, 0, 10, 0, 0, 0, 4, 0, 0, 1, 0x80,
            ])
        let link = SFTPRequest.makeLink(to: Array("to".utf8), at: Array("at".utf8))
        #expect(
            link.bytes == [0, 0, 0, 17, 20, 0, 0, 0, 0, 0, 0, 0, 2] + Array("to".utf8) + [0, 0, 0, 2] + Array("at".utf8)
        )
    }

    @Test("attributes are read as they were written")
    func attributes() throws {
        let all = SFTPAttributes(
            size: 1 << 40, owner: .init(uid: 1, gid: 2), permissions: 0o100644,
            times: .init(accessed: 3, modified: .max))
        for attributes in [all, SFTPAttributes(), SFTPAttributes(permissions: 0o40755), SFTPAttributes(size: 0)] {
            var writer = SFTPWriter(.attributes, number: 7)
            writer.attributes(attributes)
            guard case .attributes(let found) = try SFTPAnswer(Array(writer.finished()[4...])) else {
                Issue.record("no attributes")
                continue
            }
            #expect(found == attributes)
        }
        #expect(all.kind == .file)
        #expect(SFTPAttributes(permissions: 0o120777).kind == .symbolicLink)
    }

    @Test("answers that end early are refused, wherever they do")
    func truncated() throws {
        var writer = SFTPWriter(.name, number: 7)
        writer.number32(2)
        for name in ["first", "second"] {
            writer.string(Array(name.utf8))
            writer.string(Array("long".utf8))
            writer.attributes(SFTPAttributes(size: 1, times: .init(accessed: 3, modified: 4)))
        }
        let message = Array(writer.finished()[4...])
        guard case .names(let names) = try SFTPAnswer(message) else {
            Issue.record("no names")
            return
        }
        #expect(names.map(\.name) == ["first", "second"].map { Array($0.utf8) })
        for count in 0..<message.count {
            #expect(throws: MalformedMessage.self) { try SFTPAnswer(Array(message[..<count])) }
        }
    }

    @Test("what a server offers is found in its greeting")
    func greeting() throws {
        var writer = SFTPWriter(.version, number: 3)
        for (name, version) in [("posix-rename@openssh.com", "1"), ("unheard-of@example.org", "x"), ("copy-data", "1")]
        {
            writer.string(Array(name.utf8))
            writer.string(Array(version.utf8))
        }
        #expect(try SFTPConnection.extensions(in: Array(writer.finished()[4...])) == [.posixRename, .copyData])
        #expect(throws: MalformedMessage.self) {
            try SFTPConnection.extensions(in: Array(SFTPWriter(.version, number: 2).finished()[4...]))
        }
    }
}

@Suite("Files with private keys")
struct PrivateKeyFileTests {
    /// What OpenSSH writes: the cipher and the public key stand before what is encrypted.
    private func openSSH(cipher: String, type: String) -> [UInt8] {
        func string(_ bytes: [UInt8]) -> [UInt8] { [0, 0, 0, UInt8(bytes.count)] + bytes }
        let key = string(Array(type.utf8)) + string([1, 2, 3])
        let body =
            Array("openssh-key-v1\0".utf8) + string(Array(cipher.utf8)) + string(Array("none".utf8)) + string([])
            + [0, 0, 0, 1] + string(key)
        let text = TextEncoding.base64(body)
        return Array("-----BEGIN OPENSSH PRIVATE KEY-----\n\(text)\n-----END OPENSSH PRIVATE KEY-----\n".utf8)
    }

    @Test("tell whether they are encrypted, and for RSA")
    func kinds() {
        let plain = PrivateKeyFile(openSSH(cipher: "none", type: "ssh-ed25519"))
        #expect(plain.map { !$0.isEncrypted && !$0.isRSA } == true)
        let encrypted = PrivateKeyFile(openSSH(cipher: "aes256-ctr", type: "ssh-rsa"))
        #expect(encrypted.map { $0.isEncrypted && $0.isRSA } == true)
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"
        #expect(PrivateKeyFile(Array(old.utf8)).map { $0.isEncrypted && $0.isRSA } == true)
        let pkcs8 = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
        #expect(PrivateKeyFile(Array(pkcs8.utf8))?.isEncrypted == true)
    }

    @Test(
        "are told from other files",
        arguments: ["", "ssh-ed25519 AAAA me", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
    func others(text: String) { #expect(PrivateKeyFile(Array(text.utf8)) == nil) }
}
