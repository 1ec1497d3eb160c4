import StoreHTTP
import Testing

@testable import StoreSSH

/// A key in the form in which a server sends it.
private func key(_ type: String, _ number: UInt8) -> [UInt8] {
    [0, 0, 0, UInt8(type.utf8.count)] + Array(type.utf8) + [0, 0, 0, 1, number]
}

private let ed25519 = key("ssh-ed25519", 1)
private let ecdsa = key("ecdsa-sha2-nistp256", 2)

private func line(_ names: String, _ key: [UInt8]) -> String {
    "\(names) \(KnownHosts.type(of: key)) \(TextEncoding.base64(key)) a comment\n"
}

private func known(_ text: String) -> KnownHosts {
    var known = KnownHosts()
    known.add(Array(text.utf8), file: "known")
    return known
}

@Suite("Known hosts")
struct KnownHostsTests {
    @Test("a host is known by its name, any of several names, a pattern, and in any case")
    func names() {
        for names in ["host.example.org", "other,HOST.example.org", "*.example.org", "h?st.*", "*"] {
            #expect(known(line(names, ed25519)).check(ed25519, of: "Host.Example.org", port: 22) == .known, "\(names)")
        }
        for names in ["host.example.com", "host", "host.example.org.", "*.example", "!host.example.org,*"] {
            #expect(
                known(line(names, ed25519)).check(ed25519, of: "host.example.org", port: 22)
                    == .unknown(otherTypes: []),
                "\(names)")
        }
    }

    @Test("a port that is not the usual one is part of the name")
    func ports() {
        let hosts = known(line("[host]:2222", ed25519))
        #expect(hosts.check(ed25519, of: "host", port: 2222) == .known)
        #expect(hosts.check(ed25519, of: "host", port: 22) == .unknown(otherTypes: []))
        #expect(known(line("host", ed25519)).check(ed25519, of: "host", port: 2222) == .unknown(otherTypes: []))
    }

    @Test("hashed names are found")
    func hashed() {
        let salt: [UInt8] = Array(1...20)
        let hash = Digest.hmacSHA1(key: salt, Array("[127.0.0.1]:2222".utf8))
        let hosts = known(line("|1|\(TextEncoding.base64(salt))|\(TextEncoding.base64(hash))", ed25519))
        #expect(hosts.check(ed25519, of: "127.0.0.1", port: 2222) == .known)
        #expect(hosts.check(ed25519, of: "127.0.0.1", port: 2223) == .unknown(otherTypes: []))
        #expect(hosts.types(of: "127.0.0.1", port: 2222) == ["ssh-ed25519"])
    }

    @Test("another key of the same kind is a change, one of another kind is not known")
    func changes() {
        let hosts = known("# comment\n\n" + line("host", key("ssh-ed25519", 9)))
        let expected = KnownHosts.Verdict.changed(
            place: "known:3", fingerprint: KnownHosts.fingerprint(key("ssh-ed25519", 9)))
        #expect(hosts.check(ed25519, of: "host", port: 22) == expected)
        #expect(hosts.check(ecdsa, of: "host", port: 22) == .unknown(otherTypes: ["ssh-ed25519"]))
    }

    @Test("of several keys each is known, and their kinds are asked for in the order of the file")
    func several() {
        let hosts = known(line("host", ecdsa) + line("host", ed25519) + line("host", key("ssh-ed25519", 9)))
        #expect(hosts.check(ed25519, of: "host", port: 22) == .known)
        #expect(hosts.types(of: "host", port: 22) == ["ecdsa-sha2-nistp256", "ssh-ed25519"])
    }

    @Test("a revoked key is refused although it is known, and the keys of authorities are no keys of hosts")
    func marks() {
        let hosts = known(line("host", ed25519) + "@revoked " + line("*", ed25519))
        #expect(hosts.check(ed25519, of: "host", port: 22) == .revoked(place: "known:2"))
        let signed = known("@cert-authority " + line("*", ed25519))
        #expect(signed.check(ed25519, of: "host", port: 22) == .unknown(otherTypes: []))
    }

    @Test("lines that make no sense are passed over")
    func nonsense() {
        let text = "host\nhost ssh-ed25519\nhost ssh-ed25519 !!!\n|1|x|y ssh-ed25519 AAAA\n@revoked\n\u{0}\n|\n"
        #expect(known(text + line("host", ed25519)).check(ed25519, of: "host", port: 22) == .known)
    }

    @Test("fingerprints are as ssh-keygen shows them")
    func fingerprints() throws {
        let text = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
        let github = try #require(TextEncoding.bytes(base64: text))
        // Published at <https://docs.github.com/en/authentication/keeping-your-account-and-data-secure/githubs-ssh-key-fingerprints>.
        #expect(KnownHosts.fingerprint(github) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU")
        #expect(KnownHosts.type(of: github) == "ssh-ed25519")
        #expect(KnownHosts.type(of: [0, 0, 0, 99, 1]) == "")
    }
}
