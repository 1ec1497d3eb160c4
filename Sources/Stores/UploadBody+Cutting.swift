import StoreAPI

extension UploadBody {
    /// A part of a body of local bytes.
    func cut(_ range: Range<Int64>) -> UploadBody {
        var position: Int64 = 0
        var parts: [Segment] = []
        for segment in segments {
            let whole = position..<position + segment.length
            position = whole.upperBound
            let part = whole.clamped(to: range)
            guard !part.isEmpty else { continue }
            let first = part.lowerBound - whole.lowerBound
            let length = part.upperBound - part.lowerBound
            switch segment {
            case .bytes(let bytes): parts.append(.bytes(Array(bytes[Int(first)..<Int(first + length)])))
            case .file(let descriptor, let offset, _):
                parts.append(.file(descriptor: descriptor, offset: offset + first, length: length))
            case .stored(let path, let version, let stored):
                let start = stored.lowerBound + first
                parts.append(.stored(path: path, version: version, range: start..<start + length))
            }
        }
        return UploadBody(parts)
    }
}
