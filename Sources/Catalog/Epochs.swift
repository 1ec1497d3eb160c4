import SQLite
import StoreAPI

/// Which cached bytes have certainly reached the disk, told by when they were written.
///
/// Time is cut into epochs. A content into whose cache file a program has written carries the number of the epoch in
/// which that was saved, until the file is flushed by itself. An epoch ends when the whole disk is flushed: then all
/// that was written in it is on the disk, without a word about any single content. When the machine has gone down
/// before (a loss of power), the epochs since the last flush are lost: the catalog may know of bytes that never came to
/// the disk. What the store has too is then fetched again, when somebody asks for it.
///
/// The reverse can happen too: the bytes of a change reach the disk, and that the catalog has noted it does not. So a
/// change of bytes that are believed is noted on the disk before it is made. Where there are many such changes they are
/// noted for a span of inodes at a time, since files that are near each other are changed one after the other: after a
/// loss of power nothing clean is believed in the spans where changes were made since the disk was flushed.
struct Epochs: Equatable {
    /// The bytes of this epoch and of all before it are on the disk, or lost.
    var flushed: Int64 = -1
    /// The latest epoch that a content carries.
    var marked: Int64 = -1
    var lost: [ClosedRange<Int64>] = []
    /// The run of the machine's kernel in which ``marked`` was; nil: not known, so that it was another one than now.
    var boot: String?

    init() {}

    /// - Returns: nil when the text makes no sense.
    init?(_ text: String) {
        let words = text.split(separator: " ")
        guard words.count >= 3, let flushed = Int64(words[0]), let marked = Int64(words[1]) else { return nil }
        self.flushed = flushed
        self.marked = marked
        boot = words[2] == "-" ? nil : String(words[2])
        for word in words.dropFirst(3) {
            let ends = word.split(separator: "-").map { Int64($0) }
            guard ends.count == 2, let first = ends[0], let last = ends[1], first <= last else { return nil }
            lost.append(first...last)
        }
    }

    var text: String {
        (["\(flushed)", "\(marked)", boot ?? "-"] + lost.map { "\($0.lowerBound)-\($0.upperBound)" })
            .joined(separator: " ")
    }

    /// The kernel runs on that has the bytes in its memory, or another one has begun.
    mutating func open(in boot: String?) {
        guard boot == nil || boot != self.boot else { return }
        if marked > flushed { lost.append((flushed + 1)...marked) }
        flushed = max(flushed, marked)
        self.boot = boot
    }

    func isLost(_ epoch: Int64) -> Bool { lost.contains { $0.contains(epoch) } }
}

extension Catalog {
    /// Names the run of this machine's kernel; nil where it has no name for it.
    package static var bootOfThisMachine: String? {
        guard let text = readFile("/proc/sys/kernel/random/boot_id", limit: 100) else { return nil }
        let word = String(decoding: text, as: UTF8.self).split { $0.isWhitespace }.first
        return word.flatMap { $0 == "-" ? nil : String($0) }
    }

    /// The disk with the cache files is about to be flushed (syncfs(2)).
    ///
    /// - Returns: what to tell ``diskWasFlushed(_:)`` after it; nil: nothing was written since the last time.
    package func diskWillBeFlushed() throws(CatalogError) -> Int64? {
        try read { tables throws(CatalogError) in tables.endEpoch() }
    }

    /// What was saved before ``diskWillBeFlushed()`` gave the number of this epoch is on the disk.
    package func diskWasFlushed(_ epoch: Int64) throws(CatalogError) {
        try write { tables throws(CatalogError) in try tables.epochWasFlushed(epoch) }
    }
}

extension Tables {
    private static let epochsKey = "epochs"

    /// Finds out what a loss of power since the last use may have taken.
    func loadEpochs(_ boot: String?) throws(CatalogError) {
        self.boot = boot
        let noted =
            try database.first("SELECT value FROM note WHERE key = ?", .text(Self.epochsKey)) { $0.text(0) } ?? nil
        if let known = noted.flatMap({ Epochs($0) }) {
            epochs = known
            epochs.open(in: boot)
        } else {
            epochs = Epochs()
            let latest = try database.first("SELECT max(epoch) FROM content") { $0.optionalInt(0) } ?? nil
            if let latest, latest > 0 {
                // The note was lost with a part of the catalog.
                epochs.lost = [1...latest]
                epochs.flushed = latest
            }
            // 0: from before there were epochs, and so of this run of the machine, as far as anybody can say.
            epochs.marked = latest ?? -1
            epochs.boot = boot
        }
        epoch = max(epochs.marked, epochs.flushed, 0) + 1
        isEpochNoted = false
        try loadChangedSpans(isLost: noted.flatMap { Epochs($0) }?.boot != boot || boot == nil)
        if epochs.text != noted { try noteEpochs() }
    }

    // MARK: Spans of inodes

    private static let spanKey = "changed "
    /// Behind all keys of spans.
    private static let spanKeysEnd = "changed!"
    private static let spanLength: Int64 = 1024
    /// How many changes in an epoch are brought to the disk one by one, which costs no trust in others.
    static let changesOneByOne = 16

    private func loadChangedSpans(isLost: Bool) throws(CatalogError) {
        let keys = try database.all(
            "SELECT key FROM note WHERE key >= ? AND key < ?", .text(Self.spanKey), .text(Self.spanKeysEnd)
        ) { $0.text(0) ?? "" }
        let spans = keys.compactMap { Int64($0.dropFirst(Self.spanKey.utf8.count)) }
        // Whether an earlier process has brought them to the disk is not known.
        changedSpans = Dictionary(spans.map { ($0, 1) }) { first, _ in first }
        guard isLost, !spans.isEmpty else { return }
        for span in spans {
            try database.run(
                "UPDATE content SET epoch = ?3 WHERE inode >= ?1 AND inode < ?2 AND dirty = 0",
                .int(span * Self.spanLength), .int((span + 1) * Self.spanLength), .int(epoch))
        }
        epochs.lost.append(epoch...epoch)
        epochs.flushed = max(epochs.flushed, epoch)
        epochs.marked = max(epochs.marked, epoch)
        epoch += 1
        try forgetChangedSpans()
    }

    private func forgetChangedSpans() throws(CatalogError) {
        changedSpans = [:]
        lonelyChanges = 0
        try database.run(
            "DELETE FROM note WHERE key >= ? AND key < ?", .text(Self.spanKey), .text(Self.spanKeysEnd))
    }

    /// Bytes of the inode's cache file are about to be changed.
    ///
    /// - Parameter transaction: The number of this one.
    /// - Returns: the transaction that has to be on the disk before; nil: none.
    func noteChange(of inode: InodeID, in transaction: Int) throws(CatalogError) -> Int? {
        let span = inode.row / Self.spanLength
        if let noted = changedSpans[span] { return noted }
        let isBelieved =
            try database.first(
                "SELECT epoch FROM content WHERE inode = ? AND cached_bytes > 0", .int(inode.row)
            ) { trust(in: $0.optionalInt(0), isDirty: true) == .flushed } ?? false
        guard isBelieved else { return nil }
        lonelyChanges += 1
        guard lonelyChanges > Self.changesOneByOne else { return transaction }
        try database.run(
            "INSERT OR REPLACE INTO note(key, value) VALUES (?, '')", .text(Self.spanKey + String(span)))
        changedSpans[span] = transaction
        return transaction
    }

    private func noteEpochs() throws(CatalogError) {
        try database.run(
            "INSERT OR REPLACE INTO note(key, value) VALUES (?, ?)", .text(Self.epochsKey), .text(epochs.text))
    }

    /// What a content carries into whose cache file was written now.
    func markedEpoch() throws(CatalogError) -> Int64 {
        if !isEpochNoted {
            epochs.marked = epoch
            epochs.boot = boot
            try noteEpochs()
            isEpochNoted = true
        }
        return epoch
    }

    fileprivate func endEpoch() -> Int64? {
        guard epochs.marked > epochs.flushed else { return nil }
        defer {
            epoch += 1
            isEpochNoted = false
        }
        return epoch
    }

    fileprivate func epochWasFlushed(_ epoch: Int64) throws(CatalogError) {
        epochs.flushed = max(epochs.flushed, epoch)
        try noteEpochs()
        // Who has this on the disk has there too which contents were changed before.
        try forgetChangedSpans()
    }

    /// What is known of cached bytes that were written in an epoch (nil: of none that matters).
    func trust(in epoch: Int64?, isDirty: Bool) -> CacheTrust {
        guard let epoch else { return .flushed }
        if epoch > epochs.flushed { return .unflushed }
        // What is dirty is nowhere else: what the disk has of it now is all that there is.
        return !isDirty && epochs.isLost(epoch) ? .lost : .flushed
    }
}
