import Caching
import Catalog
import Glibc
import StoreAPI
import Testing

@testable import VFS

@Suite("What errors become")
struct ErrorTableTests {
    @Test(
        "an error of the store about names",
        arguments: zip(
            StoreError.Code.allCases,
            [
                FileSystemError.stale, .inputOutput, .exists, .notADirectory, .isADirectory, .notEmpty, .stale,
                .accessDenied, .accessDenied, .quotaExceeded, .tooLarge, .invalid, .invalid, .unsupported,
                .inputOutput, .timedOut, .inputOutput, .inputOutput, .interrupted, .readOnly, .busy, .accessDenied,
                .noSpace,
                .inputOutput,
            ]))
    func ofNames(code: StoreError.Code, expected: FileSystemError) {
        #expect(FileSystemError(StoreError(code, "")) == expected)
    }

    @Test(
        "an error of the store about bytes of an open file",
        arguments: zip(
            StoreError.Code.allCases,
            [
                FileSystemError.stale, .inputOutput, .stale, .stale, .stale, .stale, .stale, .accessDenied,
                .accessDenied, .quotaExceeded, .tooLarge, .inputOutput, .inputOutput, .inputOutput, .inputOutput,
                .timedOut, .inputOutput, .inputOutput, .interrupted, .readOnly, .busy, .accessDenied, .noSpace,
                .inputOutput,
            ]))
    func ofContent(code: StoreError.Code, expected: FileSystemError) {
        #expect(FileSystemError(CacheError.store(StoreError(code, ""))) == expected)
        #expect(expected != .notFound)
    }

    @Test(
        "an error of the catalog",
        arguments: [
            (CatalogError.Code.notFound, FileSystemError.notFound), (.exists, .exists),
            (.notADirectory, .notADirectory), (.isADirectory, .isADirectory), (.notEmpty, .notEmpty),
            (.noSuchAttribute, .noSuchAttribute), (.attributeExists, .exists), (.insideItself, .invalid),
            (.tooManyLinks, .tooManyLinks), (.noSpace, .noSpace), (.damaged, .inputOutput),
            (.corrupt, .inputOutput), (.tooNew, .inputOutput),
        ])
    func ofCatalog(code: CatalogError.Code, expected: FileSystemError) {
        #expect(FileSystemError(CatalogError(code, "")) == expected)
        #expect(FileSystemError(CacheError.catalog(CatalogError(code, ""))) == (code == .notFound ? .stale : expected))
    }

    @Test("an error of the cache")
    func ofCache() {
        #expect(FileSystemError(CacheError.system(EIO)) == .system(EIO))
        #expect(FileSystemError(CacheError.system(ENOSPC)) == .noSpace)
        #expect(FileSystemError(CacheError.timedOut) == .timedOut)
        #expect(FileSystemError(CacheError.shutDown) == .noDevice)
    }
}
