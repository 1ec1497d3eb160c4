import ArgumentParser
import Mounting

struct CheckConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-config", abstract: "Say what is wrong with a configuration, or that nothing is.")

    @Argument(help: ArgumentHelp("The configuration.", valueName: "FILE"))
    var file: String

    func run() throws {
        let parser = SettingsParser(schema: .product, places: .ofProcess)
        let (assignments, problems) = try readConfiguration(file, parser)
        let result: ParsedSettings
        do { result = try parser.settings([assignments], problems: problems) } catch {
            complain(error.description)
            throw ExitCode(1)
        }
        for warning in result.warnings { complain("\(warning)") }
        print("\(file) is right. These settings will be in force:\n")
        print(SettingsRendering(schema: parser.schema).text(of: result.settings), terminator: "")
    }
}
