// Package control defines hearth-control's flags once, for hearth-control
// itself and for "hearth up", which passes them on.
package control

import (
	"flag"
	"fmt"
	"strings"

	"github.com/hearth-compute/hearth/cmd/internal/boot"
	"github.com/hearth-compute/hearth/controlplane/server"
)

// RegisterFlags adds hearth-control's flags to fs. They write to c, whose
// values are the defaults.
func RegisterFlags(fs *flag.FlagSet, c *server.Config) {
	fs.StringVar(&c.Listen, "listen", c.Listen, "`address` of the Lambda API")
	fs.StringVar(&c.AgentListen, "agent-listen", c.AgentListen, "`address` agents dial; mutual TLS")
	fs.StringVar(&c.OperatorListen, "operator-listen", c.OperatorListen, "`address` of the operator gRPC service, health and reflection")
	fs.StringVar(&c.MetricsListen, "metrics-listen", c.MetricsListen, "`address` of /metrics, /healthz and /readyz")
	fs.BoolVar(&c.Insecure, "insecure", c.Insecure, "allow plaintext listeners on addresses that are not loopback")
	fs.StringVar(&c.AccessKeysFile, "access-keys-file", c.AccessKeysFile, "`file` of the access keys of callers of the Lambda API, in the form of ~/.aws/credentials, a section for each; read again when it changes")
	fs.StringVar(&c.SigV4, "sigv4", c.SigV4, "`when` the signatures of callers are verified: auto (with --access-keys-file, which is required off loopback), on or off (everybody may call)")
	fs.StringVar(&c.DataDir, "data-dir", c.DataDir, "`directory` of the store, the certificate authority, code archives and local instances")
	fs.StringVar(&c.Fleet, "fleet", c.Fleet, "`kind` of instances: local (agents on this machine) or static (hosts that join)")
	fs.StringVar(&c.AccountID, "account-id", c.AccountID, "the AWS account `id` in every ARN")
	fs.StringVar(&c.Region, "region", c.Region, "the AWS `region` in every ARN")
	fs.BoolVar(&c.Strict, "strict", c.Strict, "apply AWS's limits exactly: at least 2,048 MB, whole vCPUs, minimum 0 only with maximum 0")
	fs.StringVar(&c.DefaultProvider, "default-capacity-provider", c.DefaultProvider, "`name` of the capacity provider of functions created without one; empty refuses them")
	fs.Var((*boot.Size)(&c.BodyMemory), "body-memory", "memory `size` request bodies may take at once, more is refused; 0B means a quarter of the machine's, or of the cgroup's limit")
	fs.Var(pairs{&c.CodeBuckets, "URL"}, "code-bucket", "`NAME=URL`: where the bucket of functions' code is that users call NAME, file:///DIRECTORY or s3://BUCKET?endpoint=…; may be repeated. Others are S3's")
	fs.Var(pairs{&c.RuntimeImages, "REF"}, "runtime-image", "`NAME=REF`: the image zip functions of a runtime run on; may be repeated")
	fs.DurationVar(&c.InvokeWait, "invoke-wait", c.InvokeWait, "how long an invoke that finds no room waits for it before it is throttled, 10s at most; 0 throttles at once, as AWS does")
	fs.StringVar(&c.OTLPEndpoint, "otlp-endpoint", c.OTLPEndpoint, "`URL` of the OpenTelemetry collector that gets spans by gRPC, local agents' too, http://HOST:PORT or https://HOST:PORT; empty means none")
	fs.Float64Var(&c.TraceRatio, "trace-ratio", c.TraceRatio, "`share` of invokes that are traced when their caller does not say, 0 to 1")
	fs.BoolVar(&c.AssumeRoles, "assume-roles", c.AssumeRoles, "give functions credentials of their execution roles, assumed with the AWS credentials this service finds")
	fs.StringVar(&c.STSEndpoint, "sts-endpoint", c.STSEndpoint, "`URL` of the service that roles are assumed with; empty means AWS's Security Token Service")
	fs.IntVar(&c.Local.VCPU, "local-instance-vcpu", c.Local.VCPU, "vCPUs of one local instance")
	fs.Var((*boot.Size)(&c.Local.Memory), "local-instance-memory", "memory `size` of one local instance")
	fs.IntVar(&c.Local.MaxInstances, "local-max-instances", c.Local.MaxInstances, "how many local instances there may be at once")
	fs.StringVar(&c.Local.SubnetPool, "local-subnet-pool", c.Local.SubnetPool, "IPv4 `network` that is divided among local instances, a /24 each")
	fs.StringVar(&c.Local.ContainerdAddress, "containerd-address", c.Local.ContainerdAddress, "containerd `socket` of local instances")
}

// pairs is the value of a flag that is given once for each NAME=VALUE.
type pairs struct {
	values *map[string]string
	value  string // what VALUE is
}

// String implements flag.Value.
func (pairs) String() string { return "" }

// Repeatable tells the configuration file parser that the name may recur.
func (pairs) Repeatable() bool { return true }

// Set implements flag.Value.
func (p pairs) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" || value == "" {
		return fmt.Errorf("want NAME=%s", p.value)
	}
	if *p.values == nil {
		*p.values = map[string]string{}
	}
	(*p.values)[name] = value
	return nil
}
