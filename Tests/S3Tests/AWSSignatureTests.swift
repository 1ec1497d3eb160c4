import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import Testing
import Threading

@testable import Stores

/// Source: AWS's Signature Version 4 test suite, and "Examples: Signature Calculations" of the S3 API Reference.
@Suite("Signature version 4")
struct AWSSignatureTests {
    private static func signature(
        _ method: String, _ url: String, _ headers: [(name: String, value: String)], secret: String, key: String,
        service: String, region: String = "us-east-1", token: String? = nil, payload: String, at time: Timestamp
    ) -> String? {
        var request = HTTPRequest(method, url, headers: headers, counter: .requestsGet, operation: .storeGet)
        let signature = AWSSignature(region: region, service: service)
        let credentials = AWSCredentials(accessKeyID: key, secretAccessKey: secret, sessionToken: token)
        let day = String(CivilTime(time).basic.prefix(8))
        signature.sign(
            &request, credentials, key: signature.signingKey(secret: secret, day: day), payloadHash: payload, at: time)
        return request["Authorization"]
    }

    struct Vector: Sendable, CustomTestStringConvertible {
        var name: String
        var method = "GET"
        var url: String
        var headers: [(name: String, value: String)] = []
        var payload = AWSSignature.emptyPayload
        var expected: String
        var testDescription: String { name }
    }

    static let suite: [Vector] = [
        .init(
            name: "get-vanilla", url: "https://example.amazonaws.com/",
            expected: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        .init(
            name: "get-vanilla-query-order-key-case",
            url: "https://example.amazonaws.com/?Param2=value2&Param1=value1",
            expected: "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        .init(
            name: "get-utf8", url: "https://example.amazonaws.com/%E1%88%B4",
            expected: "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        .init(
            name: "get-vanilla-utf8-query", url: "https://example.amazonaws.com/?%E1%88%B4=bar",
            expected: "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
        .init(
            name: "post-vanilla", method: "POST", url: "https://example.amazonaws.com/",
            expected: "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        .init(
            name: "post-header-key-sort", method: "POST", url: "https://example.amazonaws.com/",
            headers: [("My-Header1", "value1")],
            expected: "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"),
        .init(
            name: "get-header-value-trim", url: "https://example.amazonaws.com/",
            headers: [("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")],
            expected: "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
    ]

    @Test("agrees with AWS's test suite", arguments: suite)
    func testSuite(vector: Vector) {
        let found = Self.signature(
            vector.method, vector.url, vector.headers, secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            key: "AKIDEXAMPLE", service: "service", payload: vector.payload, at: Timestamp(seconds: 1_440_938_160))
        #expect(found?.hasSuffix("Signature=" + vector.expected) == true)
    }

    static let examples: [Vector] = [
        .init(
            name: "GET Object", url: "https://examplebucket.s3.amazonaws.com/test.txt",
            headers: [("Range", "bytes=0-9")],
            expected: "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        .init(
            name: "PUT Object", method: "PUT", url: "https://examplebucket.s3.amazonaws.com/test$file.text",
            headers: [("Date", "Fri, 24 May 2013 00:00:00 GMT"), ("X-Amz-Storage-Class", "REDUCED_REDUNDANCY")],
            payload: "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            expected: "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
        .init(
            name: "GET Bucket Lifecycle", url: "https://examplebucket.s3.amazonaws.com/?lifecycle",
            expected: "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        .init(
            name: "List Objects", url: "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J",
            expected: "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ]

    @Test("agrees with the examples of the S3 API Reference", arguments: examples)
    func documentation(vector: Vector) {
        let found = Self.signature(
            vector.method, vector.url, vector.headers + [("X-Amz-Content-SHA256", vector.payload)],
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", key: "AKIAIOSFODNN7EXAMPLE", service: "s3",
            payload: vector.payload, at: Timestamp(seconds: 1_369_353_600))
        #expect(found?.hasSuffix("Signature=" + vector.expected) == true)
    }

    private struct Recorded: Decodable {
        var name: String
        var method: String
        var url: String
        var headers: [[String]]
        var token: String?
        var region: String
        var payload: String
        var authorization: String
    }

    @Test("agrees with botocore on odd keys, headers, queries and tokens")
    func botocore() throws {
        let cases = try botocoreSignatures.split(separator: "\n").map {
            try JSONDecoder().decode(Recorded.self, from: Data($0.utf8))
        }
        #expect(cases.count == 19)
        for recorded in cases {
            let headers = recorded.headers.map { (name: $0[0], value: $0[1]) }
            let found = Self.signature(
                recorded.method, recorded.url, headers + [("X-Amz-Content-SHA256", recorded.payload)],
                secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", key: "AKIDEXAMPLE", service: "s3",
                region: recorded.region, token: recorded.token, payload: recorded.payload,
                at: Timestamp(seconds: 1_709_210_096))
            #expect(found == recorded.authorization, "\(recorded.name)")
        }
    }

    @Test("a body is hashed without TLS, and left to TLS and Content-MD5 with it")
    func payload() throws {
        let chain = AWSCredentialChain([
            StaticAWSCredentials(AWSCredentials(accessKeyID: "a", secretAccessKey: "b"), name: "test")
        ])
        let signer = S3Signer(chain, region: "us-east-1")
        func hash(_ url: String, _ headers: [(name: String, value: String)]) throws -> String? {
            var request = HTTPRequest(
                "PUT", url, headers: headers, body: UploadBody(Array("Welcome to Amazon S3.".utf8)),
                counter: .requestsPut,
                operation: .storePut)
            try signer.sign(&request, at: Timestamp(seconds: 0))
            return request["x-amz-content-sha256"]
        }
        let whole = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
        #expect(try hash("http://h/b/k", [("Content-MD5", "x")]) == whole)
        #expect(try hash("https://h/b/k", [("Content-MD5", "x")]) == "UNSIGNED-PAYLOAD")
        #expect(try hash("https://h/b/k", []) == whole)
    }
}
