import StoreAPI
import Threading

/// What stores need to find out by trial what a server does, without getting into the way of anybody.
enum Trial {
    /// Attributes that come back whole only from who keeps all of them.
    static let attributes = Attributes(
        mode: 0o640, uid: 1234, gid: 5678, modified: Timestamp(seconds: 1_234_567_890, nanoseconds: 123_456_789),
        extended: ["user.probe": Array("prüfung".utf8)], identity: "probe")

    /// A name that nobody else makes.
    static func name() -> String {
        String(UInt64.random(in: 0...UInt64.max), radix: 16) + String(UInt64.random(in: 0...UInt64.max), radix: 16)
    }
}
