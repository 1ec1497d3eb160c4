import Catalog
import Glibc
import StoreAPI
import Testing
import Threading

@testable import VFS

/// What a file system of POSIX does, in the simplest words: the reference that ours is compared with.
private final class Model {
    final class Node {
        let kind: FileKind
        var bytes: [UInt8] = []
        var mode: UInt32
        var links: UInt32
        var children: [String: Node] = [:]
        weak var parent: Node?
        init(_ kind: FileKind, mode: UInt32, parent: Node? = nil) {
            self.kind = kind
            self.mode = mode
            self.parent = parent
            links = kind == .directory ? 2 : 1
        }
        var isDirectory: Bool { kind == .directory }
        func isInside(_ other: Node) -> Bool { self === other || (parent?.isInside(other) ?? false) }
    }

    let root = Node(.directory, mode: 0o755)

    func add(_ node: Node, _ name: String, in parent: Node) -> FileSystemError? {
        if parent.children[name] != nil { return .exists }
        parent.children[name] = node
        if node.isDirectory {
            node.parent = parent
            parent.links += 1
        }
        return nil
    }

    func link(_ node: Node, _ name: String, in parent: Node) -> FileSystemError? {
        if node.isDirectory { return .notPermitted }
        if let error = add(node, name, in: parent) { return error }
        node.links += 1
        return nil
    }

    func remove(_ name: String, in parent: Node, isDirectory: Bool) -> FileSystemError? {
        guard let node = parent.children[name] else { return .notFound }
        if isDirectory {
            guard node.isDirectory else { return .notADirectory }
            guard node.children.isEmpty else { return .notEmpty }
        } else if node.isDirectory {
            return .isADirectory
        }
        drop(name, in: parent)
        return nil
    }

    private func drop(_ name: String, in parent: Node) {
        guard let node = parent.children.removeValue(forKey: name) else { return }
        if node.isDirectory {
            node.links = 0
            parent.links -= 1
        } else {
            node.links -= 1
        }
    }

    func rename(_ name: String, in parent: Node, to newName: String, in newParent: Node, _ mode: RenameMode)
        -> FileSystemError?
    {
        let other = newParent.children[newName]
        // In the order in which rename(2) of Linux finds things wrong.
        if mode == .noReplace, other != nil { return parent.children[name] == nil ? nil : .exists }
        guard let node = parent.children[name] else { return .notFound }
        if node.isDirectory, newParent.isInside(node) { return .invalid }
        if mode == .exchange {
            guard let other else { return .notFound }
            if other.isDirectory, parent.isInside(other) { return .invalid }
            parent.children[name] = other
            newParent.children[newName] = node
            move(node, from: parent, to: newParent)
            move(other, from: newParent, to: parent)
            return nil
        }
        if let other {
            if other === node { return nil }
            switch (node.isDirectory, other.isDirectory) {
            case (true, false): return .notADirectory
            case (false, true): return .isADirectory
            case (true, true): if !other.children.isEmpty { return .notEmpty }
            case (false, false): break
            }
            drop(newName, in: newParent)
        }
        parent.children[name] = nil
        newParent.children[newName] = node
        move(node, from: parent, to: newParent)
        return nil
    }

    private func move(_ node: Node, from: Node, to: Node) {
        guard node.isDirectory else { return }
        from.links -= 1
        to.links += 1
        node.parent = to
    }

    var directories: [Node] { all(root).filter(\.isDirectory) }
    var files: [Node] { all(root).filter { $0.kind == .file } }
    private func all(_ node: Node) -> [Node] {
        [node] + node.children.sorted { $0.key < $1.key }.flatMap { all($0.value) }
    }
}

@Suite("Random operations")
struct ModelTests {
    @Test("do what they do in a model of POSIX", arguments: [1, 2, 3, 0] as [UInt64])
    func likeTheModel(seed: UInt64) throws {
        let seed = seed == 0 ? UInt64.random(in: 100...UInt64.max) : seed
        try Comparison(seed: seed).run(steps: 600)
    }
}

private final class Comparison {
    let seed: UInt64
    var random: SplitMix
    let model = Model()
    let rig: Rig
    var numbers: [ObjectIdentifier: UInt64] = [:]
    /// Keeps nodes of the model alive, so that their identities stay theirs.
    var known: [Model.Node] = []
    let names = ["a", "b", "c", "d"]
    var log: [String] = []

    init(seed: UInt64) throws {
        self.seed = seed
        random = SplitMix(seed: seed)
        rig = try Rig()
        numbers[ObjectIdentifier(model.root)] = 2
    }

    func run(steps: Int) throws {
        for step in 0..<steps {
            let (expected, found) = try act()
            try #require(expected == found, "seed \(seed), step \(step): \(log.suffix(12))")
            if step % 50 == 0 { try compare(model.root, "") }
            rig.clock.advance(by: .milliseconds(10))
        }
        try compare(model.root, "")
    }

    private func pick<Element>(_ elements: [Element]) -> Element { elements.randomElement(using: &random)! }

    private func remember(_ node: Model.Node, _ entry: Entry) {
        numbers[ObjectIdentifier(node)] = entry.number
        known.append(node)
    }

    private func number(_ node: Model.Node) -> UInt64 { numbers[ObjectIdentifier(node)]! }

    private func act() throws -> (FileSystemError?, FileSystemError?) {
        let parent = pick(model.directories)
        let name = pick(names)
        let at = number(parent)
        switch Int.random(in: 0..<12, using: &random) {
        case 0, 1:
            log.append("create \(at)/\(name)")
            let node = Model.Node(.file, mode: 0o644)
            let expected = model.add(node, name, in: parent)
            return (
                expected,
                error {
                    let (entry, file) = try rig.create(name, in: at)
                    remember(node, entry)
                    try rig.close(file.handle)
                }
            )
        case 2:
            log.append("mkdir \(at)/\(name)")
            let node = Model.Node(.directory, mode: 0o755)
            let expected = model.add(node, name, in: parent)
            return (expected, error { remember(node, try rig.makeDirectory(name, in: at)) })
        case 3:
            let node = pick(model.files + model.directories)
            log.append("link \(number(node)) \(at)/\(name)")
            return (model.link(node, name, in: parent), error { try rig.link(number(node), name, in: at) })
        case 4:
            log.append("unlink \(at)/\(name)")
            return (model.remove(name, in: parent, isDirectory: false), error { try rig.unlink(name, in: at) })
        case 5:
            log.append("rmdir \(at)/\(name)")
            return (model.remove(name, in: parent, isDirectory: true), error { try rig.removeDirectory(name, in: at) })
        case 6, 7:
            let (newParent, newName) = (pick(model.directories), pick(names))
            let mode: RenameMode = pick([.replace, .replace, .exchange])
            log.append("rename \(at)/\(name) \(number(newParent))/\(newName) \(mode)")
            let to = number(newParent)
            return (
                model.rename(name, in: parent, to: newName, in: newParent, mode),
                error { try rig.rename(name, in: at, to: newName, into: to, mode) }
            )
        case 8, 9:
            guard let node = model.files.randomElement(using: &random) else { return (nil, nil) }
            let offset = Int.random(in: 0..<3000, using: &random)
            let text = String(repeating: pick(names), count: Int.random(in: 1..<2000, using: &random))
            log.append("write \(number(node)) \(offset) \(text.utf8.count)")
            let end = offset + text.utf8.count
            if node.bytes.count < end { node.bytes += [UInt8](repeating: 0, count: end - node.bytes.count) }
            node.bytes.replaceSubrange(offset..<end, with: text.utf8)
            return (
                nil,
                error {
                    let handle = try rig.open(number(node), O_WRONLY)
                    try rig.write(text, to: handle, at: Int64(offset))
                    try rig.close(handle)
                }
            )
        case 10:
            guard let node = model.files.randomElement(using: &random) else { return (nil, nil) }
            let size = Int.random(in: 0..<4000, using: &random)
            log.append("truncate \(number(node)) \(size)")
            node.bytes = Array(node.bytes.prefix(size)) + [UInt8](repeating: 0, count: max(0, size - node.bytes.count))
            return (nil, error { try rig.change(number(node)) { $0.size = Int64(size) } })
        default:
            let node = pick(model.files + model.directories)
            node.mode = UInt32.random(in: 0o400...0o777, using: &random)
            log.append("chmod \(number(node)) \(node.mode)")
            let mode = node.mode
            return (nil, error { try rig.change(number(node)) { $0.mode = mode } })
        }
    }

    private func compare(_ node: Model.Node, _ path: String) throws {
        let attributes = try rig.attributes(number(node)).attributes
        let about: Comment = "seed \(seed): '\(path)' after \(log.suffix(12))"
        try #require(attributes.kind == node.kind && attributes.links == node.links, about)
        if path != "" { try #require(attributes.mode == node.mode, about) }
        guard node.isDirectory else {
            try #require(attributes.size == Int64(node.bytes.count), about)
            let handle = try rig.open(number(node))
            let text = try rig.read(handle)
            try rig.release(handle)
            try #require(Array(text.utf8) == node.bytes, about)
            return
        }
        let listed = try rig.list(number(node))
        try #require(
            listed.map { String(decoding: $0.name, as: UTF8.self) }.sorted() == node.children.keys.sorted(), about)
        for (name, child) in node.children {
            try #require(rig.lookup(name, in: number(node)).number == number(child), about)
            try compare(child, path + "/" + name)
        }
    }
}
