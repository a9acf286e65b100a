//go:build node

package e2e

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/sandbox/leftovers"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	account          = "123456789012"
	region           = "us-east-1"
	providerName     = "p"
	functionName     = "f"
	role             = "arn:aws:iam::123456789012:role/any"
)

// bins holds the binaries, built once.
var bins string // set by TestMain

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if missing() != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "hearth-e2e-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		build := exec.Command("go", "build", "-o", dir+"/", "../../hearth", "../../hearth-agent", "../../hearth-control", "../../hearth-init", "./probe", "./streamer", "./caller")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stdout, build.Stderr = os.Stdout, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building the binaries:", err)
			return 1
		}
		bins = dir
		return m.Run()
	}())
}

// missing says what these tests lack; empty if nothing.
func missing() string {
	if os.Getuid() != 0 {
		return "not root"
	}
	if _, err := os.Stat(containerdSocket); err != nil {
		return "no containerd: " + err.Error()
	}
	return ""
}

// stack is a running "hearth up" and a client of it.
type stack struct {
	t        *testing.T
	dir      string
	flags    []string
	api      string
	metrics  string
	operator string
	agents   string // where they dial
	lambda   *lambda.Client
	cmd      *exec.Cmd
	exited   chan error
	before   leftovers.State
	scope    leftovers.Scope
	log      *os.File
}

// option changes a stack before it starts.
type option func(*stack)

// onContainerd is another containerd than that of the machine.
func onContainerd(address string) option {
	return func(s *stack) {
		s.scope.Containerd = address
		s.flags = append(s.flags, "--containerd-address", address)
	}
}

// pools counts the stacks of this process: no two may share addresses. The
// first is not always the same: others may use this machine.
var pools = sync.OnceValue(func() *atomic.Int64 {
	n := new(atomic.Int64)
	n.Store(rand.Int64N(100))
	return n
})

// up starts a stack. It is stopped at the end of the test, which fails if
// anything is left.
func up(t *testing.T, options ...option) *stack {
	t.Helper()
	if why := missing(); why != "" {
		t.Skip(why)
	}
	pool := fmt.Sprintf("10.%d.0.0/16", 100+pools().Add(1)%100)
	s := &stack{t: t, dir: filepath.Join(t.TempDir(), "data"), scope: leftovers.Scope{
		Containerd: containerdSocket, Prefix: "hearth", Cgroups: []string{"/hearth"},
		Subnets: []netip.Prefix{netip.MustParsePrefix(pool)},
	}}
	for _, o := range options {
		o(s)
	}
	s.scope.DataDirs = append(s.scope.DataDirs, s.dir)
	s.before = s.left()
	ports := freeAddresses(t, 4)
	s.api, s.operator, s.metrics = "http://"+ports[0], ports[2], "http://"+ports[3]
	s.agents = ports[1]
	s.flags = append([]string{
		"up", "--data-dir", s.dir, "--listen", ports[0], "--agent-listen", ports[1], "--operator-listen", ports[2],
		"--metrics-listen", ports[3], "--local-subnet-pool", pool, "--runtime-image", "provided.al2023=builtin:static",
	}, s.flags...)
	s.lambda = lambda.New(lambda.Options{
		Region: region, BaseEndpoint: aws.String(s.api),
		Credentials: anybody(),
		Retryer:     aws.NopRetryer{},
		HTTPClient:  &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}},
	})
	var err error
	if s.log, err = os.CreateTemp(t.TempDir(), "hearth-up-*.log"); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			s.tail()
		}
	})
	return s
}

// anybody are credentials: the API believes everybody.
func anybody() aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "any", SecretAccessKey: "any"}, nil
	})
}

// step is a subtest on the stack of its test.
func (s *stack) step(name string, run func()) {
	whole := s.t
	whole.Run(name, func(t *testing.T) {
		s.t = t
		defer func() { s.t = whole }()
		run()
	})
}

func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		out = append(out, l.Addr().String())
	}
	return out
}

func (s *stack) start() {
	s.t.Helper()
	s.cmd = exec.Command(filepath.Join(bins, "hearth"), s.flags...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(s.cmd, s.exited)
	s.eventually(time.Minute, "hearth up to be ready", func() error {
		select {
		case err := <-s.exited:
			s.exited <- err
			s.tail()
			s.t.Fatalf("hearth up ended: %v", err)
		default:
		}
		return s.get("/readyz")
	})
}

func (s *stack) get(path string) error {
	resp, err := http.Get(s.metrics + path)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return nil
}

// stop asks hearth up to tear everything down and checks that it did.
func (s *stack) stop() {
	s.t.Helper()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.exited:
		if err != nil {
			s.t.Errorf("hearth up ended with %v", err)
		}
	case <-time.After(2 * time.Minute):
		s.t.Errorf("hearth up did not stop in 2 minutes")
		_ = s.cmd.Process.Kill()
	}
	s.cmd = nil
	if left := s.ours(leftovers.Diff(s.before, s.left())); len(left) > 0 {
		s.t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
	}
}

// ours are the lines about this stack: others may run on this machine. The
// names of everything an instance has contain its id, and the log has every id.
func (s *stack) ours(lines leftovers.State) []string {
	s.t.Helper()
	log, err := os.ReadFile(s.log.Name())
	if err != nil {
		s.t.Fatal(err)
	}
	ids := regexp.MustCompile(`i-[0-9a-f]{17}`).FindAllString(string(log), -1)
	others := slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "/hearth/i-") })
	var mine []string
	for _, line := range lines {
		name := strings.ReplaceAll(line, "hearth_i_", "hearth-i-") // nftables names
		known := slices.ContainsFunc(s.scope.DataDirs, func(dir string) bool { return strings.Contains(line, dir) }) || strings.HasPrefix(line, "route ") || strings.HasPrefix(line, "interface ") ||
			slices.ContainsFunc(ids, func(id string) bool { return strings.Contains(name, id) })
		if known || strings.HasPrefix(line, "cgroup ") && strings.HasSuffix(line, "/hearth") && !others {
			mine = append(mine, line)
		}
	}
	return mine
}

func (s *stack) left() leftovers.State {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	state, err := leftovers.Snapshot(ctx, s.scope)
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

// tail prints the end of the log.
func (s *stack) tail() {
	data, err := os.ReadFile(s.log.Name())
	if err != nil {
		return
	}
	const most = 12 << 10
	if len(data) > most {
		data = data[len(data)-most:]
	}
	s.t.Logf("the end of the log:\n%s", data)
}

func (s *stack) eventually(limit time.Duration, what string, ok func() error) {
	s.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %v for %s: %v", limit, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// archive zips a program as a bootstrap.
func archive(t *testing.T, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(bins, name))
	if err != nil {
		t.Fatal(err)
	}
	return archiveOf(t, string(body))
}

// archiveOf zips content as a bootstrap.
func archiveOf(t *testing.T, body string) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := zip.NewWriter(&buf)
	h := &zip.FileHeader{Name: "bootstrap", Method: zip.Deflate}
	h.SetMode(0o755)
	w, err := z.CreateHeader(h)
	if err == nil {
		_, err = io.WriteString(w, body)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// provider creates a capacity provider with a subnet for each zone.
func (s *stack) provider(zones ...string) {
	s.t.Helper()
	_, err := s.lambda.CreateCapacityProvider(s.t.Context(), &lambda.CreateCapacityProviderInput{
		CapacityProviderName: aws.String(providerName),
		PermissionsConfig:    &types.CapacityProviderPermissionsConfig{CapacityProviderOperatorRoleArn: aws.String(role)},
		VpcConfig:            &types.CapacityProviderVpcConfig{SubnetIds: zones, SecurityGroupIds: []string{}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.eventually(5*time.Second, "the provider to be Active", func() error {
		p, err := s.lambda.GetCapacityProvider(s.t.Context(), &lambda.GetCapacityProviderInput{CapacityProviderName: aws.String(providerName)})
		if err != nil {
			return err
		}
		if p.CapacityProvider.State != types.CapacityProviderStateActive {
			return fmt.Errorf("state %s", p.CapacityProvider.State)
		}
		return nil
	})
}

// function creates a function that runs the probe, published to $LATEST.PUBLISHED.
func (s *stack) function(edit func(*lambda.CreateFunctionInput)) {
	s.t.Helper()
	if _, err := s.lambda.CreateFunction(s.t.Context(), s.input(edit)); err != nil {
		s.t.Fatal(err)
	}
	s.active()
}

// input is what creates that function.
func (s *stack) input(edit func(*lambda.CreateFunctionInput)) *lambda.CreateFunctionInput {
	s.t.Helper()
	in := &lambda.CreateFunctionInput{
		FunctionName: aws.String(functionName), Role: aws.String(role), Runtime: types.RuntimeProvidedal2023,
		Handler: aws.String("bootstrap"), Code: &types.FunctionCode{ZipFile: archive(s.t, "probe")},
		MemorySize: aws.Int32(512), Timeout: aws.Int32(30), Publish: true,
		PublishTo: types.FunctionVersionLatestPublishedLatestPublished,
		CapacityProviderConfig: &types.CapacityProviderConfig{
			LambdaManagedInstancesCapacityProviderConfig: &types.LambdaManagedInstancesCapacityProviderConfig{
				CapacityProviderArn: aws.String("arn:aws:lambda:" + region + ":" + account + ":capacity-provider:" + providerName),
			},
		},
	}
	if edit != nil {
		edit(in)
	}
	return in
}

// concurrency sets PerExecutionEnvironmentMaxConcurrency.
func concurrency(n int32) func(*lambda.CreateFunctionInput) {
	return func(in *lambda.CreateFunctionInput) {
		in.CapacityProviderConfig.LambdaManagedInstancesCapacityProviderConfig.PerExecutionEnvironmentMaxConcurrency = aws.Int32(n)
	}
}

// active waits until what was published to $LATEST.PUBLISHED runs.
func (s *stack) active() {
	s.t.Helper()
	s.versionActive("$LATEST.PUBLISHED")
}

// versionActive waits until a version runs.
func (s *stack) versionActive(version string) {
	s.t.Helper()
	s.eventually(time.Minute, version+" to be Active", s.runs(version))
}

// runs fails unless a version is Active, with no update under way.
func (s *stack) runs(version string) func() error {
	return func() error {
		s.t.Helper()
		f, err := s.lambda.GetFunctionConfiguration(s.t.Context(), &lambda.GetFunctionConfigurationInput{
			FunctionName: aws.String(functionName), Qualifier: aws.String(version),
		})
		if err != nil {
			return err
		}
		if f.State == types.StateFailed {
			s.t.Fatalf("the function is Failed: %s: %s", f.StateReasonCode, aws.ToString(f.StateReason))
		}
		if f.State != types.StateActive || f.LastUpdateStatus == types.LastUpdateStatusInProgress {
			return fmt.Errorf("state %s, update %s: %s", f.State, f.LastUpdateStatus, aws.ToString(f.StateReason))
		}
		return nil
	}
}

// event is what the probe takes.
type event struct {
	Dial, Say string
	SleepMS   int
	Crash     bool
	Fail      string
	Size      int
	Pad       string
}

// answer is what it returns.
type answer struct {
	RequestID   string
	Environment string
	PID         int
	Started     int64
	InFlight    int64
	Peak        int64
	Padded      int
	Body        string
	Revision    string
}

// invoke runs the probe once.
func (s *stack) invoke(ctx context.Context, e event) (answer, *lambda.InvokeOutput, error) {
	payload, err := json.Marshal(e)
	if err != nil {
		return answer{}, nil, err
	}
	out, err := s.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(functionName), Payload: payload})
	if err != nil {
		return answer{}, nil, err
	}
	a, err := decodeAnswer(out)
	return a, out, err
}

// decodeAnswer reads what the probe answered.
func decodeAnswer(out *lambda.InvokeOutput) (a answer, err error) {
	if out.FunctionError != nil {
		return a, fmt.Errorf("function error %s: %s", *out.FunctionError, out.Payload)
	}
	return a, json.Unmarshal(out.Payload, &a)
}

// hearth runs the operators' command with -o json and decodes what it prints.
func (s *stack) hearth(to any, args ...string) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(bins, "hearth"), append(args, "--control", s.operator, "-o", "json")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("hearth %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	if err := json.Unmarshal(out, to); err != nil {
		s.t.Fatalf("hearth %s: %v in %s", strings.Join(args, " "), err, out)
	}
}
