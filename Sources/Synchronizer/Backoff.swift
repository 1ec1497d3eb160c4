package import Threading

/// Waits that double from `first` to `longest`, each drawn at random from the whole span ("full jitter"), so that
/// what failed together is not tried again together.
///
/// Source: "Exponential Backoff And Jitter",
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.
package struct Backoff: Sendable {
    package var first: Duration
    package var longest: Duration

    package init(from first: Duration, to longest: Duration) {
        self.first = first
        self.longest = longest
    }

    /// - Parameter failures: How often it has failed by now: 1 for the first wait.
    package func wait(afterFailures failures: Int, _ random: inout SplitMix) -> Duration {
        let doublings = min(max(failures - 1, 0), 30)
        let span = min(longest.nanoseconds, first.nanoseconds.multipliedReportingOverflow(by: 1 << doublings).0)
        // A tenth of the span at least: a wait of nothing is none.
        return .nanoseconds(Int64.random(in: span / 10...span, using: &random))
    }
}
