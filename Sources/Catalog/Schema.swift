import SQLite

/// The tables, as a list of steps that is only ever appended to: step N makes version N of the format out of N - 1.
enum Schema {
    static let steps: [String] = [
        """
        CREATE TABLE note(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

        -- Files and directories. Mode, owner: NULL where the store does not say. Times in ns since 1970.
        CREATE TABLE inode(
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            kind INTEGER NOT NULL, mode INTEGER, uid INTEGER, gid INTEGER,
            links INTEGER NOT NULL, size_bytes INTEGER NOT NULL, device INTEGER NOT NULL,
            accessed_ns INTEGER NOT NULL, modified_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL,
            created_ns INTEGER NOT NULL, target BLOB,
            -- 0: mode, owner, times and kind are still to be asked of the store.
            known INTEGER NOT NULL,
            content_generation INTEGER NOT NULL DEFAULT 0, attribute_generation INTEGER NOT NULL DEFAULT 0,
            -- Of a file: the object that has the bytes which are not in the cache. Of a directory: the object below
            -- which its entries lie on the store. NULL: not on the store; -1: it was, and is gone.
            object INTEGER, source_version TEXT, source_size_bytes INTEGER,
            -- Of a directory: when its last complete listing was begun.
            listed_ns INTEGER);
        CREATE INDEX inode_of_object ON inode(object) WHERE object IS NOT NULL;
        CREATE INDEX inode_without_links ON inode(id) WHERE links = 0;

        -- Names. The id is the directory cookie.
        CREATE TABLE entry(
            id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL, name BLOB NOT NULL, inode INTEGER NOT NULL);
        CREATE UNIQUE INDEX entry_by_name ON entry(parent, name);
        CREATE INDEX entry_in_order ON entry(parent, id);
        CREATE INDEX entry_of_inode ON entry(inode);

        CREATE TABLE attribute(inode INTEGER NOT NULL, name TEXT NOT NULL, value BLOB NOT NULL,
            PRIMARY KEY(inode, name)) WITHOUT ROWID;

        -- Cached contents: of files whose bytes are here, in part or whole, or newer than the store's.
        CREATE TABLE content(
            inode INTEGER PRIMARY KEY, dirty INTEGER NOT NULL, changing INTEGER NOT NULL, present BLOB NOT NULL,
            cached_bytes INTEGER NOT NULL, used_ns INTEGER NOT NULL);
        CREATE INDEX content_to_evict ON content(used_ns) WHERE dirty = 0 AND cached_bytes > 0;

        -- What is known to lie on the store: a tree of its own, which follows the namespace.
        CREATE TABLE object(
            id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL, name BLOB NOT NULL,
            directory INTEGER NOT NULL, inode INTEGER, version TEXT, size_bytes INTEGER NOT NULL,
            modified_ns INTEGER NOT NULL,
            -- Which state of its inode it holds.
            content_generation INTEGER NOT NULL DEFAULT 0, attribute_generation INTEGER NOT NULL DEFAULT 0,
            -- 1: a listing showed a version that is not ours where a change of ours is pending. 2: the store said so.
            foreign_version INTEGER NOT NULL DEFAULT 0,
            -- When a listing last showed it, and when this program last wrote it.
            seen_ns INTEGER NOT NULL, written_ns INTEGER NOT NULL DEFAULT 0);
        CREATE UNIQUE INDEX object_by_name ON object(parent, name);
        CREATE INDEX object_of_inode ON object(inode) WHERE inode IS NOT NULL;

        -- The journal: a name whose object is not as it should be (parent, name), or an object to delete.
        CREATE TABLE pending(
            id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER, name BLOB, object INTEGER,
            revision INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,
            since_ns INTEGER NOT NULL, changed_ns INTEGER NOT NULL, expedited INTEGER NOT NULL DEFAULT 0,
            attempts INTEGER NOT NULL DEFAULT 0, error TEXT, retry_ns INTEGER, parked INTEGER NOT NULL DEFAULT 0,
            checkpoint TEXT);
        CREATE UNIQUE INDEX pending_name ON pending(parent, name) WHERE parent IS NOT NULL;
        CREATE UNIQUE INDEX pending_object ON pending(object) WHERE object IS NOT NULL;
        CREATE INDEX pending_due ON pending(expedited, changed_ns) WHERE parked = 0 AND retry_ns IS NULL;
        CREATE INDEX pending_retry ON pending(retry_ns) WHERE parked = 0 AND retry_ns IS NOT NULL;

        -- What is in the journal, kept up by the triggers: asked for many times a second, also with a million rows.
        CREATE TABLE pending_total(items INTEGER NOT NULL, bytes INTEGER NOT NULL, parked INTEGER NOT NULL);
        INSERT INTO pending_total VALUES (0, 0, 0);
        CREATE TRIGGER pending_added AFTER INSERT ON pending BEGIN
            UPDATE pending_total SET items = items + 1, bytes = bytes + new.bytes, parked = parked + new.parked;
        END;
        CREATE TRIGGER pending_removed AFTER DELETE ON pending BEGIN
            UPDATE pending_total SET items = items - 1, bytes = bytes - old.bytes, parked = parked - old.parked;
        END;
        CREATE TRIGGER pending_changed AFTER UPDATE OF bytes, parked ON pending
        WHEN new.bytes != old.bytes OR new.parked != old.parked BEGIN
            UPDATE pending_total
            SET bytes = bytes + new.bytes - old.bytes, parked = parked + new.parked - old.parked;
        END;

        INSERT INTO object(id, parent, name, directory, inode, size_bytes, modified_ns, seen_ns)
            VALUES (1, 0, x'', 1, 2, 0, 0, 0);
        """,
        """
        -- All totals in one row, so that a change writes one page for them: those of the journal, and what is in the
        -- cache, which each mount asks for. And when all that was changed before was asked to be due at once.
        ALTER TABLE pending_total RENAME TO total;
        ALTER TABLE total ADD COLUMN cached_bytes INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE total ADD COLUMN dirty_bytes INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE total ADD COLUMN dirty_files INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE total ADD COLUMN expedited_ns INTEGER;
        UPDATE total SET (cached_bytes, dirty_bytes, dirty_files) =
            (SELECT coalesce(sum(cached_bytes), 0), coalesce(sum(dirty * cached_bytes), 0), coalesce(sum(dirty), 0)
            FROM content);
        CREATE TRIGGER content_added AFTER INSERT ON content BEGIN
            UPDATE total SET cached_bytes = cached_bytes + new.cached_bytes,
                dirty_bytes = dirty_bytes + new.dirty * new.cached_bytes, dirty_files = dirty_files + new.dirty;
        END;
        CREATE TRIGGER content_removed AFTER DELETE ON content BEGIN
            UPDATE total SET cached_bytes = cached_bytes - old.cached_bytes,
                dirty_bytes = dirty_bytes - old.dirty * old.cached_bytes, dirty_files = dirty_files - old.dirty;
        END;
        CREATE TRIGGER content_changed AFTER UPDATE OF dirty, cached_bytes ON content
        WHEN new.dirty != old.dirty OR new.cached_bytes != old.cached_bytes BEGIN
            UPDATE total SET cached_bytes = cached_bytes + new.cached_bytes - old.cached_bytes,
                dirty_bytes = dirty_bytes + new.dirty * new.cached_bytes - old.dirty * old.cached_bytes,
                dirty_files = dirty_files + new.dirty - old.dirty;
        END;
        CREATE INDEX pending_parked ON pending(id) WHERE parked = 1;
        """,
        """
        -- In which epoch a program has last written into the cache file; NULL: all of it was flushed since. See Epochs.
        ALTER TABLE content ADD COLUMN epoch INTEGER DEFAULT 0;
        """,
        """
        -- Moves on the store that were begun, and of which it is not known whether they were done: the object may lie
        -- below `parent` under `name` by now.
        CREATE TABLE move(object INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL);

        -- What is being sent, or was, and is not known to have come: below the object `parent` under `name` may lie
        -- this state (see SentState) of the inode. Generations: -1 where the bytes may be between two of them. Looked: since
        -- then somebody has looked for it there, and not found it.
        CREATE TABLE sent(
            parent INTEGER NOT NULL, name BLOB NOT NULL, state TEXT NOT NULL, inode INTEGER NOT NULL,
            content_generation INTEGER NOT NULL, attribute_generation INTEGER NOT NULL, since_ns INTEGER NOT NULL,
            looked INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(parent, name, state)) WITHOUT ROWID;
        """,
        """
        -- Of a file that has, or had, several names: what tells on the store that they are one file, and the state of the
        -- content that this is for. Of an object: what it says of itself there. See ObjectIdentity.
        ALTER TABLE inode ADD COLUMN identity TEXT;
        ALTER TABLE inode ADD COLUMN identity_generation INTEGER;
        CREATE INDEX inode_by_identity ON inode(identity) WHERE identity IS NOT NULL;
        ALTER TABLE object ADD COLUMN identity TEXT;
        CREATE INDEX object_with_identity ON object(parent) WHERE identity IS NOT NULL;
        CREATE INDEX object_of_directories ON object(parent) WHERE directory = 1;
        -- The store does not know yet which names are one file.
        INSERT OR IGNORE INTO pending(parent, name, since_ns, changed_ns)
            SELECT e.parent, e.name, strftime('%s') * 1000000000, strftime('%s') * 1000000000
            FROM inode i JOIN entry e ON e.inode = i.id WHERE i.kind = 0 AND i.links > 1;
        """,
    ]

    /// Brings a database to the newest version, in one transaction a step.
    static func migrate(_ database: Database) throws(CatalogError) {
        let version = try database.first("SELECT version FROM format") { $0.int(0) } ?? 0
        guard version <= steps.count else {
            throw CatalogError(
                .tooNew,
                "the catalog was made by a newer version of CloudFusion (format \(version), this one knows \(steps.count)): use that version, or another cache_id"
            )
        }
        for number in Int(version)..<steps.count {
            try database.transaction { () throws(CatalogError) in
                try database.execute(steps[number])
                try database.run("DELETE FROM format")
                try database.run("INSERT INTO format(version) VALUES (?)", .int(Int64(number + 1)))
            }
        }
    }
}
