package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/bucket"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/metrics"
)

// Config is everything hearth-control can be told. Fields say their flag.
type Config struct {
	// Listen is the address of the Lambda API (--listen).
	Listen string
	// AgentListen is the address agents dial (--agent-listen); always TLS.
	AgentListen string
	// OperatorListen is the address of the operator service (--operator-listen).
	OperatorListen string
	// MetricsListen is the address of /metrics, /healthz, /readyz (--metrics-listen).
	MetricsListen string
	// Insecure allows plaintext listeners off loopback (--insecure).
	Insecure bool
	// AccessKeysFile has the access keys of callers of the Lambda API, in the form
	// of ~/.aws/credentials; it is read again when it changes (--access-keys-file).
	AccessKeysFile string
	// SigV4 is when signatures of callers are verified: SigV4Auto, which empty
	// means too, SigV4On or SigV4Off (--sigv4).
	SigV4 string
	// DataDir holds the store, the certificate authority, code archives and
	// local instances (--data-dir).
	DataDir string
	// Fleet is "local" or "static" (--fleet).
	Fleet string
	// AccountID and Region appear in every ARN (--account-id, --region).
	AccountID, Region string
	// Strict switches the relaxations of AWS's rules off (--strict).
	Strict bool
	// DefaultProvider is the capacity provider of functions that name none
	// (--default-capacity-provider); empty means that they are refused.
	DefaultProvider string
	// BodyMemory bounds what request bodies take of memory at once, large answers
	// take a quarter as much again; 0 means a quarter of memory (--body-memory).
	BodyMemory controlplane.Bytes
	// RuntimeImages override or add to the images of runtimes (--runtime-image).
	RuntimeImages map[string]string
	// CodeBuckets are the URLs of buckets of functions' code by name, those that
	// are not buckets of that name in S3 (--code-bucket).
	CodeBuckets map[string]string
	// OTLPEndpoint is the collector spans are sent to, by local agents too; empty
	// means none (--otlp-endpoint).
	OTLPEndpoint string
	// TraceRatio is the share of invokes that are traced when their caller does
	// not say (--trace-ratio).
	TraceRatio float64
	// InvokeWait is how long an invoke that finds no room waits for it at most; 0
	// means not at all (--invoke-wait).
	InvokeWait time.Duration
	// AssumeRoles gives functions credentials of their execution roles, which are
	// assumed with the AWS credentials this service finds (--assume-roles).
	AssumeRoles bool
	// STSEndpoint is where roles are assumed; empty means AWS's service of the
	// region (--sts-endpoint).
	STSEndpoint string
	Local       LocalConfig
	// Version of this build.
	Version string
	// Environ is passed to local agents.
	Environ []string
	Logger  *slog.Logger
}

// LocalConfig is about --fleet local.
type LocalConfig struct {
	// VCPU and Memory of one instance (--local-instance-vcpu, --local-instance-memory).
	VCPU   int
	Memory controlplane.Bytes
	// MaxInstances at once (--local-max-instances).
	MaxInstances int
	// SubnetPool is divided among instances (--local-subnet-pool).
	SubnetPool string
	// ContainerdAddress is containerd's socket (--containerd-address).
	ContainerdAddress string
}

// Default returns the configuration used unless told otherwise.
func Default() Config {
	return Config{
		Listen:         "127.0.0.1:9000",
		AgentListen:    "127.0.0.1:9100",
		OperatorListen: "127.0.0.1:9101",
		MetricsListen:  "127.0.0.1:9190",
		DataDir:        "/var/lib/hearth/control",
		SigV4:          SigV4Auto,
		Fleet:          "local",
		AccountID:      "123456789012",
		Region:         "us-east-1",
		TraceRatio:     0.05,
		InvokeWait:     100 * time.Millisecond,
		Local: LocalConfig{
			VCPU: 2, Memory: 8 << 30, MaxInstances: 8,
			SubnetPool: "10.201.0.0/16", ContainerdAddress: "/run/containerd/containerd.sock",
		},
	}
}

// maxInvokeWait bounds InvokeWait: who waits longer waits for a scaler.
const maxInvokeWait = 10 * time.Second

// The bounds of local instances.
const (
	minLocalMemory = 128 << 20
	maxLocalVCPU   = 1024
)

// Validate reports every fault, each naming its flag. Its class is
// InvalidArgument.
func (c *Config) Validate() error {
	var errs []error
	fault := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %s: %w", flag, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument))
	}
	c.validateListeners(fault)
	c.validateSignatures(fault)
	if c.DataDir == "" {
		fault("data-dir", "is required")
	}
	if c.Fleet != "local" && c.Fleet != "static" {
		fault("fleet", "%q is neither local nor static", c.Fleet)
	}
	if !regexp.MustCompile(`^\d{12}$`).MatchString(c.AccountID) {
		fault("account-id", "%q is not 12 digits", c.AccountID)
	}
	if !regexp.MustCompile(`^[a-z]{2}(-[a-z]+)+-\d$`).MatchString(c.Region) {
		fault("region", "%q is not a region such as us-east-1", c.Region)
	}
	if !regexp.MustCompile(`^[a-zA-Z0-9-_]{0,140}$`).MatchString(c.DefaultProvider) {
		fault("default-capacity-provider", "%q is not the name of a capacity provider", c.DefaultProvider)
	}
	c.validateSources(fault)
	c.validateInvokes(fault)
	if err := c.checkSTS(); err != nil {
		fault("sts-endpoint", "%q %v", c.STSEndpoint, err)
	}
	if c.Fleet == "local" {
		c.Local.validate(fault)
	}
	return errors.Join(errs...)
}

// validateSources checks where images and code come from.
func (c *Config) validateSources(fault func(flag, format string, args ...any)) {
	for name, ref := range c.RuntimeImages {
		if name == "" || ref == "" {
			fault("runtime-image", "%q is not NAME=REF", name+"="+ref)
		}
	}
	for name, at := range c.CodeBuckets {
		if err := bucket.Check(at); err != nil {
			fault("code-bucket", "%s: %v", name, err)
		}
	}
}

// validateInvokes checks what concerns invokes on their way.
func (c *Config) validateInvokes(fault func(flag, format string, args ...any)) {
	if err := metrics.CheckOTLP(c.OTLPEndpoint); err != nil {
		fault("otlp-endpoint", "%v", err)
	}
	if !(c.TraceRatio >= 0 && c.TraceRatio <= 1) { // NaN is neither
		fault("trace-ratio", "%v is not between 0 and 1", c.TraceRatio)
	}
	if c.InvokeWait < 0 || c.InvokeWait > maxInvokeWait {
		fault("invoke-wait", "%v is not between 0 and %v", c.InvokeWait, maxInvokeWait)
	}
}

func (c *Config) validateListeners(fault func(flag, format string, args ...any)) {
	if c.BodyMemory != 0 && c.BodyMemory < lambdaapi.LeastBodyMemory {
		fault("body-memory", "%d bytes are less than the %d the largest request takes", c.BodyMemory, lambdaapi.LeastBodyMemory)
	}
	for _, l := range []struct{ flag, addr string }{
		{"listen", c.Listen}, {"operator-listen", c.OperatorListen}, {"metrics-listen", c.MetricsListen},
	} {
		switch loopback, err := isLoopback(l.addr); {
		case err != nil:
			fault(l.flag, "%v", err)
		case !loopback && !c.Insecure:
			fault(l.flag, "%s is not a loopback address and the listener is plaintext; say --insecure if that is meant", l.addr)
		}
	}
	if _, _, err := net.SplitHostPort(c.AgentListen); err != nil {
		fault("agent-listen", "%v", err)
	}
}

func (c *LocalConfig) validate(fault func(flag, format string, args ...any)) {
	if c.VCPU < 1 || c.VCPU > maxLocalVCPU {
		fault("local-instance-vcpu", "%d is not between 1 and %d", c.VCPU, maxLocalVCPU)
	}
	if c.Memory < minLocalMemory {
		fault("local-instance-memory", "%d bytes is less than 128 MiB", c.Memory)
	}
	if c.MaxInstances < 1 {
		fault("local-max-instances", "%d leaves no instance to run anything on", c.MaxInstances)
	}
	if _, err := netip.ParsePrefix(c.SubnetPool); err != nil {
		fault("local-subnet-pool", "%v", err)
	}
}

// isLoopback tells whether addr (HOST:PORT) is reachable from this machine only.
func isLoopback(addr string) (bool, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false, err
	}
	if host == "localhost" {
		return true, nil
	}
	// What is no address, empty or a name, is not provably loopback.
	return net.ParseIP(host).IsLoopback(), nil
}
