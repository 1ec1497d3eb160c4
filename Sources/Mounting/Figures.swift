package import Statistics

/// All that was counted, of one moment: what the mount counts itself, and what its stores count on the wire.
package struct Figures: Sendable {
    /// Of the parts that every store has above it.
    package let mount: StatisticsSnapshot
    /// Of the stores' own connections: requests, how long they took, bytes.
    package let transport: StatisticsSnapshot

    package init(mount: StatisticsSnapshot, transport: StatisticsSnapshot) {
        self.mount = mount
        self.transport = transport
    }

    package subscript(_ counter: Counter) -> Int64 {
        // Uploads are counted above the stores, whichever kind they are; on the wire they would count twice.
        counter == .bytesUploaded ? mount[counter] : mount[counter] + transport[counter]
    }
    package subscript(_ gauge: Gauge) -> Int64 { mount[gauge] }
    package subscript(_ operation: TimedOperation) -> Histogram { transport[operation] }

    /// Bytes per second over the last ten seconds.
    package var uploadRate: Double { mount.uploadRate }
    package var downloadRate: Double { mount.downloadRate + transport.downloadRate }

    /// Newest first.
    package var errors: [RecordedError] { (mount.errors + transport.errors).sorted { $0.last > $1.last } }
}
