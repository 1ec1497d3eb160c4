import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// Index pages as servers write them, and as nobody should.
@Suite("Index pages")
struct HTTPIndexTests {
    struct Shown: Equatable {
        var name: String
        var isDirectory = false
        var note: String?
    }

    private func page(
        _ text: String, at url: String = "http://h/pub/", _ format: IndexPage.Format = .html, isWhole: Bool = true
    ) throws(StoreError) -> IndexPage {
        try page(Array(text.utf8), at: url, format, isWhole: isWhole)
    }

    private func page(
        _ bytes: [UInt8], at url: String = "http://h/pub/", _ format: IndexPage.Format = .html, isWhole: Bool = true
    ) throws(StoreError) -> IndexPage {
        let spool = try Spool()
        try bytes.withUnsafeBufferPointer { bytes throws(StoreError) in
            try spool.write(UnsafeRawBufferPointer(bytes), at: 0)
        }
        return IndexPage(spool, at: WebURL(url)!, format, isWhole: isWhole)
    }

    private func lines(_ text: String, at url: String = "http://h/pub/", _ format: IndexPage.Format = .html) throws
        -> [IndexLine]
    {
        let page = try page(text, at: url, format)
        let lines = try page.next(10_000)
        #expect(page.isAtEnd && page.isIndex && page.isWhole)
        return lines
    }

    private func names(_ text: String, at url: String = "http://h/pub/", _ format: IndexPage.Format = .html) throws
        -> [String]
    {
        try lines(text, at: url, format).map { $0.name.description + ($0.isDirectory ? "/" : "") }
    }

    // MARK: Real ones

    private static let nginx = """
        <html>\r
        <head><title>Index of /pub/</title></head>\r
        <body>\r
        <h1>Index of /pub/</h1><hr><pre><a href="../">../</a>\r
        <a href="d%20ir/">d ir/</a>                                              31-Jan-2024 23:59                   -\r
        <a href="%C3%BC%26%3F%23%25%22%27.txt">ü&amp;?#%&quot;'.txt</a>                   31-Jan-2024 23:59                4913\r
        <a href="a-very-long-name-that-is-cut-short-on-the-page-itself.tar.gz">a-very-long-name-that-is-cut-short-on-the-page-..&gt;</a> 01-Feb-2024 00:01             1234567890\r
        </pre><hr></body>\r
        </html>\r
        """

    @Test("nginx")
    func nginx() throws {
        let lines = try lines(Self.nginx)
        #expect(
            lines.map(\.name.description) == [
                "d ir", "ü&?#%\"'.txt", "a-very-long-name-that-is-cut-short-on-the-page-itself.tar.gz",
            ])
        #expect(lines.map(\.isDirectory) == [true, false, false])
        #expect(lines.map(\.size) == [nil, 4913, 1_234_567_890])
        #expect(lines[1].modified?.time.iso8601 == "2024-01-31T23:59:00Z" && lines[1].modified?.hasSeconds == false)
    }

    private static let apache = """
        <!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
        <html>
         <head>
          <title>Index of /pub</title>
         </head>
         <body>
        <h1>Index of /pub</h1>
        <pre><img src="/icons/blank.gif" alt="Icon "> <a href="?C=N;O=D">Name</a>  <a href="?C=M;O=A">Last modified</a> <a href="?C=S;O=A">Size</a>  <hr><img src="/icons/back.gif" alt="[PARENTDIR]"> <a href="/">Parent Directory</a>                             -   
        <img src="/icons/folder.gif" alt="[DIR]"> <a href="sub/">sub/</a>                    2024-01-31 23:59    -   
        <a href="big&amp;bold.bin"><img src="/icons/binary.gif" alt="[   ]"></a> <a href="big&amp;bold.bin">big&amp;bold.bin</a>  2024-01-31 23:59  4.9K  a description
        <img src="/icons/text.gif" alt="[TXT]"> <a href="./a:b.txt">a:b.txt</a>              2024-01-31 23:59  1.5M  
        <hr></pre>
        </body></html>
        """

    @Test("Apache httpd, its icons being links too")
    func apache() throws {
        let lines = try lines(Self.apache)
        #expect(lines.map(\.name.description) == ["sub", "big&bold.bin", "a:b.txt"])
        #expect(lines.map(\.isDirectory) == [true, false, false])
        #expect(lines[1].note == "2024-01-31 23:59 4.9K a description")
        #expect(lines[2].size == 1_572_864)
        #expect(lines.allSatisfy { $0.modified?.time.iso8601 == "2024-01-31T23:59:00Z" })
    }

    @Test("Apache httpd with HTMLTable, lighttpd, Caddy, rclone: tables")
    func tables() throws {
        let row = """
            <tr><td valign="top"><img src="/icons/text.gif" alt="[TXT]"></td><td><a href="a.txt">a.txt</a></td>\
            <td align="right">2024-01-31 23:59  </td><td align="right">4.9K</td><td>&nbsp;</td></tr>
            <TR class=d><TD class='n'><A HREF=b/ >b</A>/</TD><td class="m">2024-Jan-31 23:59:59</td><td>-  &nbsp;</td></TR>
            <td><a href="./c"><svg><use xlink:href="#file"/></svg><span class="name">c</span></a></td>
            <td data-order="12">12 B</td><td><time datetime="2024-01-31T23:59:59Z">01/31/2024</time></td>
            """
        let lines = try lines("<title>x</title><table>\(row)</table>")
        #expect(lines.map(\.name.description) == ["a.txt", "b", "c"])
        #expect(lines.map(\.isDirectory) == [false, true, false])
        #expect(lines[0].modified?.time.iso8601 == "2024-01-31T23:59:00Z")
        #expect(lines[1].modified == nil || lines[1].modified?.hasSeconds == true)
    }

    @Test("Python's http.server")
    func python() throws {
        let text = """
            <!DOCTYPE HTML>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <title>Directory listing for /pub/</title>
            </head>
            <body>
            <h1>Directory listing for /pub/</h1>
            <hr>
            <ul>
            <li><a href="%C3%BC%20x%26y.txt">ü x&amp;y.txt</a></li>
            <li><a href="link/">link@</a></li>
            </ul>
            <hr>
            </body>
            </html>
            """
        #expect(try names(text) == ["ü x&y.txt", "link/"])
        #expect(try names("<h1>Directory listing for /</h1><ul></ul></html>", at: "http://h/") == [])
    }

    @Test("nginx's JSON and XML")
    func documents() throws {
        let json = """
            [
            { "name":"d", "type":"directory", "mtime":"Wed, 31 Jan 2024 23:59:59 GMT" },
            { "name":"f \\"x\\"", "type":"file", "mtime":"Wed, 31 Jan 2024 23:59:59 GMT", "size":4913 },
            { "name":"../up", "type":"file", "mtime":"Wed, 31 Jan 2024 23:59:59 GMT", "size":1 }
            ]
            """
        let page = try page(json, .json)
        let lines = try page.next(100)
        #expect(lines.map(\.name.description) == ["d", "f \"x\""])
        #expect(lines.map(\.isDirectory) == [true, false])
        #expect(lines[1].size == 4913 && lines[1].modified?.hasSeconds == true)
        #expect(page.takeRefused() == ["../up"])
        let xml = """
            <?xml version="1.0"?>
            <list>
            <directory mtime="2024-01-31T23:59:59Z">d</directory>
            <file mtime="2024-01-31T23:59:59Z" size="4913">f &amp; g</file>
            </list>
            """
        #expect(try names(xml, .xml) == ["d/", "f & g"])
        for (text, format) in [("{}", IndexPage.Format.json), ("[1]", .json), ("<rss/>", .xml), ("<", .xml)] {
            #expect(throws: StoreError.self) { try self.page(text, format).next(1) }
        }
    }

    // MARK: Links

    @Test(
        "a link means something below the page, or nothing",
        arguments: [
            ("x", "x"), ("x/", "x/"), ("./x", "x"), ("/pub/x", "x"), ("/pub/x/", "x/"), ("http://h/pub/x", "x"),
            ("https://h/pub/x", "x"), ("//h/pub/x", "x"), ("HTTP://H:80/pub/x", "x"), ("x%20y", "x y"), ("x y", "x y"),
            (" x\n", "x"), ("%25", "%"), ("100% sure", "100% sure"), ("%zz", "%zz"), ("x#top", "x"), ("ü", "ü"),
            ("%c3%bc", "ü"), ("x&amp;y", "x&y"), ("x&#38;y", "x&y"), ("x&#x26;y", "x&y"), ("x&y;z", "x&y;z"),
            ("a:b", nil), ("./a:b", "a:b"), ("a%3Ab", "a:b"), ("...", "..."), ("../pub/x", "x"), ("/%70ub/x", "x"),
            ("?C=N;O=D", nil), ("x?y", nil), ("#top", nil), ("", nil), ("/", nil), ("..", nil), ("../", nil),
            ("./", nil),
            ("../x", nil), ("/x", nil), ("x/y", nil), ("/pub", nil), ("/pub/", nil), ("//other/pub/x", nil),
            ("http://h:81/pub/x", nil), ("http://h.example/pub/x", nil), ("mailto:x", nil), ("javascript:x()", nil),
            ("ftp://h/pub/x", nil), ("x//", "x/"), ("/pub//x", "x"),
        ] as [(String, String?)])
    func links(target: String, name: String?) throws {
        let page = try page("<h1>Index of /pub/</h1><a href=\"\(target)\">x</a></html>")
        let lines = try page.next(10)
        #expect(lines.map { $0.name.description + ($0.isDirectory ? "/" : "") } == (name.map { [$0] } ?? []))
        #expect(page.takeRefused().isEmpty)
    }

    @Test(
        "names that no file can have are reported, and never shown",
        arguments: ["%2F", "a%2Fb", "%2e%2e", "%2E", "%00", "a%00b", String(repeating: "n", count: 256)])
    func hostileNames(target: String) throws {
        let page = try page("<a href=\"ok\">x</a><a href=\"\(target)\">x</a></html>")
        #expect(try page.next(10).map(\.name.description) == ["ok"])
        #expect(page.takeRefused().count == 1)
    }

    @Test("control characters in names stay what they are, and do not get into messages")
    func controls() throws {
        let page = try page("<a href=\"%01%1b[2J%0a\">x</a><a href=\"%0a%2f\">x</a>")
        #expect(try page.next(10).map(\.name.bytes) == [[1, 27] + Array("[2J\n".utf8)])
        #expect(page.takeRefused() == ["\u{FFFD}/"])
    }

    @Test("only links count: no comment, script, style, other tag or text")
    func otherParts() throws {
        let text = """
            <!-- <a href="comment">x</a> -- > <a href="still">x</a> --><a href=one>1</a>
            <script>document.write('<a href="script">x</a>'); if (a </b) {}</script><a href=two>2</a>
            <style>a[href="<a href=style>"] {}</style><a title='<a href="title">' href='three'>3</a>
            <abbr href="abbr">x</abbr><link href="style.css"><img src="x.png"><A HREF = "four" href="five">4</A>
            <!DOCTYPE <a href="doctype">> <? <a href="question"> ?><a name="top">a</a> &lt;a href="text"&gt; < a href="space">
            <a href="unclosed
            """
        #expect(try names(text) == ["one", "two", "three", "four"])
    }

    @Test("a name that is listed twice is shown once")
    func twice() throws {
        #expect(try names("<a href=a>x</a><a href=b>x</a><a href=a>x</a><a href=a/>x</a>") == ["a", "b"])
    }

    @Test("a page comes in pieces of any length")
    func pieces() throws {
        for text in [Self.nginx, Self.apache] {
            var whole = LinkScanner()
            whole.take(text.utf8)
            whole.finish()
            for length in 1...7 {
                var scanner = LinkScanner()
                var rest = Array(text.utf8)[...]
                while !rest.isEmpty {
                    scanner.take(rest.prefix(length))
                    rest = rest.dropFirst(length)
                }
                scanner.finish()
                #expect(scanner.links == whole.links)
            }
            #expect(whole.callsItselfIndex && whole.isClosed)
        }
    }

    // MARK: Sizes

    @Test("a page with very many names is read a part at a time, each name once")
    func manyNames() throws {
        let count = 30_000
        var text = Array("<html><pre><a href=\"../\">../</a>\n".utf8)
        for number in 0..<count { text += Array("<a href=\"f\(number)\">f</a> 31-Jan-2024 23:59 \(number)\n".utf8) }
        let page = try page(text)
        var seen: Set<FileName> = []
        var parts = 0
        while !page.isAtEnd {
            let lines = try page.next(1_000)
            #expect(lines.count <= 1_000)
            seen.formUnion(lines.map(\.name))
            parts += 1
        }
        #expect(seen.count == count && parts >= 30)
    }

    @Test("what is opened and never closed, and what is longer than makes sense, takes no memory and gives no link")
    func endless() throws {
        let long = String(repeating: "x", count: 100_000)
        let deep = String(repeating: "<a name=x><div>", count: 10_000)
        for text in [
            "<a href=\"\(long)\">x</a>", "<a \(long)=\"y\">x</a>", "<\(long) href=y>", "<!--\(long)",
            "<a href=\(long)>",
            "<script>\(long)", "<a href='", "<a href=\"&#\(long);", deep,
        ] {
            let page = try page(text + "<i>" + text)
            #expect(try page.next(10).isEmpty)
        }
        let page = try page("<a href=\"f\">x</a>\(String(repeating: "note ", count: 10_000))")
        #expect(try page.next(1).first?.note.utf8.count ?? 0 <= 200)
    }

    @Test("references to characters are resolved once, and grow nothing")
    func references() {
        func characters(_ text: String) -> String {
            String(decoding: LinkScanner.characters(of: Array(text.utf8)), as: UTF8.self)
        }
        #expect(characters("&amp;amp;") == "&amp;")
        #expect(characters("&lt;&gt;&quot;&apos;&#39;&#X27;") == "<>\"'''")
        #expect(characters("&#0;&#xD800;&#x110000;") == "\u{FFFD}\u{FFFD}\u{FFFD}")
        #expect(characters("&lol9;&amp &;&#;&#x;&#-1;&#+1;") == "&lol9;&amp &;&#;&#x;&#-1;&#+1;")
        #expect(characters("&#99999999999999999999;") == "&#99999999999999999999;")
    }

    @Test("a page that is cut short is told from a whole one where the transfer does not tell")
    func cutShort() throws {
        let whole = try page("<a href=a>x</a></body></HTML>", isWhole: false)
        #expect(try whole.next(10).count == 1 && whole.isWhole)
        let short = try page("<a href=a>x</a></body>", isWhole: false)
        #expect(try short.next(10).count == 1 && !short.isWhole)
    }

    @Test("a page that is none of files is told from an empty folder's")
    func otherPages() throws {
        for (text, isIndex) in [
            ("<html><h1>Welcome</h1><p>Nothing here</p></html>", false), ("", false),
            ("<a href=\"https://elsewhere.example/\">x</a>", false), ("<a href=\"?C=N\">x</a>", true),
            ("<title>Index of /pub</title>", true), ("<h1>index of  /</h1>", true),
            ("<a href=\"/\">home</a><a href=\"#\">top</a><a href=\"\">x</a>", false),
            ("<a href=\"../\">up</a>", true), ("<a href=\"/pub/?sort=name\">x</a>", true),
            ("<a href=\"..%2f\">x</a>", true),
        ] {
            let page = try page(text)
            #expect(try page.next(10).isEmpty)
            #expect(page.isIndex == isIndex, "\(text)")
        }
    }

    // MARK: Times

    @Test(
        "times are read in the forms that servers write",
        arguments: [
            ("31-Jan-2024 23:59 4913", "2024-01-31T23:59:00Z"), ("2024-01-31 23:59 4.9K", "2024-01-31T23:59:00Z"),
            ("2024-Jan-31 23:59:58 1K", "2024-01-31T23:59:58Z"),
            ("Wed, 31 Jan 2024 23:59:58 GMT 5", "2024-01-31T23:59:58Z"),
            ("12 2024-01-31T23:59:58Z", "2024-01-31T23:59:58Z"), ("1-Jan-2024 00:00", "2024-01-01T00:00:00Z"),
            ("31-Foo-2024 23:59", nil), ("2024-01-31", nil), ("23:59", nil), ("", nil), ("2024-13-31 23:59", nil),
            ("99999-01-31 23:59", nil), ("2024-01-31 99:99", nil), ("- - - - -", nil),
        ] as [(String, String?)])
    func times(note: String, expected: String?) {
        #expect(IndexTime(note)?.time.iso8601 == expected)
    }

    @Test("a time on a page is that of a file whatever its zone, and no other one")
    func zones() throws {
        let moment = try #require(Timestamp(iso8601: "2024-01-31T12:34:56Z"))
        for (note, isWritten) in [
            ("2024-01-31 12:34", true), ("2024-01-31 13:34", true), ("2024-01-31 07:04", true),
            ("2024-02-01 01:19", true),
            ("2024-01-31 12:35", false), ("2024-02-02 12:34", false), ("2024-01-31 12:34:56", true),
            ("2024-01-31 12:34:57", false), ("2024-01-31 18:19:56", true),
        ] {
            #expect(IndexTime(note)?.isWritten(for: moment) == isWritten, "\(note)")
        }
        #expect(IndexTime("1969-12-31 23:59")?.isWritten(for: Timestamp(seconds: -1)) == true)
    }
}
