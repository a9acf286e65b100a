// Package boot is what the daemons' main functions share: flags with their
// environment variables and config file, the logger, the version, signals and
// exit codes. A main function is:
//
//	func main() { boot.Main(run) }
//
//	func run(ctx context.Context) error {
//		fs := boot.NewFlagSet("hearth-agent", "Runs execution environments on this host.")
//		cfg := daemon.Config{}
//		cfg.RegisterFlags(fs)
//		logs := boot.RegisterLogFlags(fs)
//		if err := boot.Parse(fs, os.Args[1:], os.Getenv); err != nil {
//			return err
//		}
//		log := logs.New(os.Stderr)
//		…
//	}
package boot
