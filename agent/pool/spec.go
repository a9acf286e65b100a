package pool

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/sandbox"
)

const (
	// runtimeAddress is where every environment finds its Runtime API, inside its
	// own network namespace.
	runtimeAddress = "127.0.0.1:9001"
	taskRoot       = "/var/task"
	runtimeDir     = "/var/runtime"
	// bootstraps are the places AWS looks for a zip function's entry point.
	bootstraps = "/var/runtime/bootstrap:/var/task/bootstrap:/opt/bootstrap"

	// uid and gid are AWS's.
	uid = 993
	gid = 990

	// xrayHost and xrayPort are where an X-Ray daemon would listen.
	xrayHost = "127.0.0.1"
	xrayPort = "2000"

	pidsLimit = 1024
	openFiles = 4096

	labelEnvironment = "hearth.environment"
	labelFunction    = "hearth.function"
	labelVersion     = "hearth.version"
)

// build is what a spec is made of.
type build struct {
	assignment agent.Assignment
	sandbox    sandbox.ID
	image      sandbox.ImageConfig
	// unpacked is zero for images.
	unpacked
	metadata []byte
	region   string
	// token lets the function read its role's credentials; empty for none.
	token string
	now   time.Time
}

// spec is the sandbox of an assignment.
func (b build) spec() sandbox.Spec {
	a := b.assignment
	s := sandbox.Spec{
		ID:         b.sandbox,
		Image:      sandbox.Image{Ref: a.Image.Ref, Username: a.Image.Username, Password: a.Image.Password},
		Args:       b.command(),
		Env:        b.environment(),
		WorkingDir: cmp.Or(a.ImageConfig.WorkingDirectory, b.image.WorkingDir),
		User:       sandbox.User{UID: uid, GID: gid},
		Limits: sandbox.Limits{
			CPU:       sandbox.MilliCPU(a.Limits.CPU),
			Memory:    sandbox.Bytes(a.Limits.Memory),
			Tmp:       sandbox.Bytes(a.EphemeralStorage),
			PIDs:      pidsLimit,
			OpenFiles: openFiles,
		},
		Labels: map[string]string{
			labelEnvironment: string(a.Environment),
			labelFunction:    a.FunctionName,
			labelVersion:     a.Version,
		},
		Metadata: b.metadata,
		Link:     sandbox.Link{Address: linkAddress, Helpers: extensionsDir},
	}
	if b.token != "" {
		s.Labels[labelToken] = tokenHash(b.token)
	}
	if b.codeDir != "" {
		s.Args = []string{bootstraps}
		s.WorkingDir = taskRoot
		s.Mounts = []sandbox.Mount{{Source: b.codeDir, Target: taskRoot}}
	}
	if b.layerDir != "" {
		s.Mounts = append(s.Mounts, sandbox.Mount{Source: b.layerDir, Target: layerRoot})
	}
	return s
}

// command is the image's entry point and arguments, each unless it is overridden.
func (b build) command() []string {
	entry, args := b.image.Entrypoint, b.image.Cmd
	if o := b.assignment.ImageConfig.EntryPoint; len(o) > 0 {
		entry = o
	}
	if o := b.assignment.ImageConfig.Command; len(o) > 0 {
		args = o
	}
	return append(slices.Clone(entry), args...)
}

// runtimeOnly are variables that extensions do not get, besides those that begin
// with an underscore.
func runtimeOnly(name string) bool {
	switch name {
	case "AWS_LAMBDA_MAX_CONCURRENCY", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME",
		"LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR", "AWS_EXECUTION_ENV", "AWS_XRAY_DAEMON_ADDRESS", "AWS_XRAY_CONTEXT_MISSING":
		return true
	}
	return strings.HasPrefix(name, "_")
}

// extensionEnvironment is what an external extension finds.
func (b build) extensionEnvironment() []string {
	return slices.DeleteFunc(b.environment(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return runtimeOnly(name)
	})
}

// accountID is that of an ARN; empty if it has none.
func accountID(arn string) string {
	if parts := strings.SplitN(arn, ":", 6); len(parts) == 6 {
		return parts[4]
	}
	return ""
}

// environment is what the runtime finds: the image's variables, then defaults,
// then the customer's, then those nobody may change.
func (b build) environment() []string {
	env := map[string]string{}
	for _, e := range b.image.Env {
		if name, value, ok := strings.Cut(e, "="); ok {
			env[name] = value
		}
	}
	for name, value := range b.defaults() {
		if _, set := env[name]; !set {
			env[name] = value
		}
	}
	maps.Copy(env, b.overridable())
	reserved := b.reserved()
	maps.Copy(reserved, b.credentials())
	for name, value := range b.assignment.Variables {
		if !strings.HasPrefix(name, "_") {
			env[name] = value
		}
	}
	for name, value := range reserved {
		if value == "" {
			delete(env, name)
			continue
		}
		env[name] = value
	}
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// defaults are variables a zip function finds unless its image sets them.
func (b build) defaults() map[string]string {
	d := map[string]string{"TZ": ":UTC"}
	if b.codeDir != "" {
		d["LANG"] = "en_US.UTF-8"
		d["PATH"] = "/usr/local/bin:/usr/bin/:/bin:/opt/bin"
		d["LD_LIBRARY_PATH"] = "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib"
	}
	return d
}

// overridable are variables of ours that customers may set themselves. Nothing
// of ours listens at the X-Ray daemon's address: an extension may.
func (b build) overridable() map[string]string {
	o := map[string]string{"AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR", "AWS_XRAY_DAEMON_ADDRESS": xrayHost + ":" + xrayPort}
	if l := b.assignment.Logging; l.Format != "" {
		o["AWS_LAMBDA_LOG_FORMAT"] = l.Format
		if l.Format == "JSON" && l.ApplicationLevel != "" {
			o["AWS_LAMBDA_LOG_LEVEL"] = l.ApplicationLevel
		}
	}
	return o
}

// reserved are variables that customers cannot set; those with an empty value
// are absent. AWS's _LAMBDA_TELEMETRY_LOG_FD_PROVIDER_SOCKET is not among them:
// runtimes print to their standard output then.
func (b build) reserved() map[string]string {
	a := b.assignment
	group := a.Logging.Group
	if group == "" {
		group = "/aws/lambda/" + a.FunctionName
	}
	r := map[string]string{
		"AWS_REGION":                      b.region,
		"AWS_DEFAULT_REGION":              b.region,
		"AWS_LAMBDA_FUNCTION_NAME":        a.FunctionName,
		"AWS_LAMBDA_FUNCTION_VERSION":     a.Version,
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": strconv.FormatInt(int64(a.Limits.Memory)>>20, 10),
		"AWS_LAMBDA_INITIALIZATION_TYPE":  "lambda-managed-instances",
		"AWS_LAMBDA_MAX_CONCURRENCY":      strconv.Itoa(a.MaxConcurrency),
		"AWS_LAMBDA_RUNTIME_API":          runtimeAddress,
		"AWS_LAMBDA_LOG_GROUP_NAME":       group,
		"AWS_LAMBDA_LOG_STREAM_NAME":      b.logStream(),
		"LAMBDA_TASK_ROOT":                taskRoot,
		"LAMBDA_RUNTIME_DIR":              runtimeDir,
		"_HANDLER":                        a.Handler,
		"_AWS_XRAY_DAEMON_ADDRESS":        xrayHost,
		"_AWS_XRAY_DAEMON_PORT":           xrayPort,
		"AWS_EXECUTION_ENV":               executionEnv(a),
		// They would win over the role's credentials, and a customer cannot set them
		// on AWS.
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "",
	}
	if a.OnDemand {
		r["AWS_LAMBDA_INITIALIZATION_TYPE"], r["AWS_LAMBDA_MAX_CONCURRENCY"] = "on-demand", ""
	}
	return r
}

// logStream names the log stream of the sandbox.
func (b build) logStream() string {
	return b.now.UTC().Format("2006/01/02") + "/" + b.assignment.FunctionName + "[" + b.assignment.Version + "]" + string(b.sandbox)
}

// executionEnv names the managed runtime; OS-only runtimes have none.
func executionEnv(a agent.Assignment) string {
	switch {
	case a.Code == agent.Code{}:
		return "AWS_Lambda_Image"
	case a.Runtime == "" || strings.HasPrefix(a.Runtime, "provided"):
		return ""
	}
	return "AWS_Lambda_" + a.Runtime
}
