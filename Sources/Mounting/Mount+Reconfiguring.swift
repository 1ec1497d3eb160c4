import Caching
import Catalog
import Logging
import Statistics
import StoreAPI
import Synchronizer
import Threading
import VFS

/// What writing `config/config` does.
extension Mount {
    /// Checks a written configuration and lets it take effect, in whole or not at all.
    func applyConfiguration(_ text: [UInt8]) -> Result<Void, FileSystemError> {
        // One after the other, in the order of arrival or nearly so; each waits for the store with no lock held.
        let mayGoOn = state.wait { (state) -> Bool? in
            if state.isUnmounted { return false }
            if state.isReconfiguring { return nil }
            state.isReconfiguring = true
            return true
        }
        guard mayGoOn == true else { return .failure(.noDevice) }
        defer { state.update { $0.isReconfiguring = false } }
        let parser = SettingsParser(
            schema: request.schema,
            places: SettingsPlaces(home: request.places.home, base: nil, cacheHome: request.places.cacheHome))
        let (assignments, problems) = parser.assignments(in: text, named: "config/config")
        let old = settings
        let new: Settings
        do {
            // A text with a name is a whole configuration; one without changes what it has.
            let isWhole = assignments.contains { ($0.key == "name" || $0.key == "store") && !$0.value.isEmpty }
            new =
                try isWhole
                ? parser.settings([request.commandLine, assignments], problems: problems, previous: old).settings
                : parser.settings([assignments], problems: problems, previous: old, starting: old).settings
        } catch {
            return refuse(.invalid, "configuration", error.description, "The settings are as they were.")
        }
        if new == old { return .success(()) }
        do throws(MountError) { try change(from: old, to: new) } catch {
            return refuse(
                error.isUsage ? .busy : .inputOutput, "configuration", error.message, "The settings are as they were.")
        }
        return .success(())
    }

    private func change(from old: Settings, to new: Settings) throws(MountError) {
        let surroundings = surroundings
        let stack = state.withLock { $0.stack }
        if MountStack.folderPath(new, surroundings.schema, surroundings.places) != stack?.folder.path
            || new.scheme != stack?.descriptor.scheme
        {
            try swap(to: new, surroundings)
        } else if let stack, let descriptor = request.schema.descriptor(named: stack.descriptor.scheme),
            descriptor.identity(new.storeSettings(descriptor)) != stack.identity
        {
            // A cache_id that was given stays the same for another store.
            throw MountError(
                "the cache '\(stack.folder.path)' belongs to \(stack.identity): give another cache_id for another store"
            )
        } else if let stack, differInStoreOptions(old, new) {
            try stack.replaceStore(new, surroundings)
            fileSystem.setBacking(stack.backing)
        }
        state.withLock { $0.settings = new }
        fileSystem.configure(fileSystemSettings(new))
        withStack { $0?.configure(new) }
        do { try settleLog() } catch { logger.error("\(error.message)") }
        if new.usesSecrets(request.schema) { forbidCoreFiles() }
        logger.notice("the settings were changed")
    }

    private func differInStoreOptions(_ old: Settings, _ new: Settings) -> Bool {
        guard let scheme = new.scheme else { return false }
        return request.schema.storeOptions(of: scheme).contains { old.values[$0.name] != new.values[$0.name] }
    }

    /// Another store, or another cache: the new one is opened first, then everything is brought to the old store.
    private func swap(to new: Settings, _ surroundings: MountStack.Surroundings) throws(MountError) {
        let next = try new.scheme.map { (_) throws(MountError) in try MountStack(new, surroundings) }
        let before = state.withLock { $0.cancellations }
        if let old = state.withLock({ $0.stack }) {
            do throws(MountError) {
                fileSystem.saveAll()
                var watch = ProgressWatch(patience: .seconds(120), now: .now)
                let left = try old.drain(nil) { progress in
                    !watch.isStalled(progress, statistics.snapshot()[.bytesUploaded], now: .now)
                        && state.withLock { $0.cancellations == before && $0.stopRequests == 0 && !$0.isUnmounted }
                }
                guard left.itemsLeft == 0 else {
                    throw MountError(
                        "\(left.itemsLeft) changes could not be brought to the store in use, which must come first: "
                            + "see stats/notuploaded", isUsage: true)
                }
            } catch {
                next?.shutdown(logger)
                throw error
            }
        }
        fileSystem.saveAll()
        fileSystem.setBacking(next?.backing)
        if let old = replaceStack(next) {
            // What was written in the last moments stays in its cache for the next mount of that store.
            old.shutdown(logger)
        }
    }
}
