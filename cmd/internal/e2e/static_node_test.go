//go:build node

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/sandbox/leftovers"
)

// process is a process of a test that its end stops in order.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	log    *os.File
	exited chan error
}

func launch(t *testing.T, binary string, args ...string) *process {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), binary+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	d := &process{t: t, cmd: exec.Command(filepath.Join(bins, binary), args...), log: log, exited: make(chan error, 1)}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.exited <- d.cmd.Wait() }()
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("log of %s:\n%s", binary, text[max(0, len(text)-8<<10):])
		}
	})
	return d
}

func (d *process) stop() {
	d.t.Helper()
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.exited:
		if err != nil {
			d.t.Errorf("%s ended with %v", d.cmd.Path, err)
		}
	case <-time.After(time.Minute):
		d.t.Errorf("%s did not stop in a minute", d.cmd.Path)
		_ = d.cmd.Process.Kill()
	}
	d.cmd = nil
}

// machine is a machine of its own as far as an agent can tell: everything an agent
// has alone on a host has another name.
type machine struct {
	flags []string
	scope leftovers.Scope
}

func newHost(t *testing.T, name, zone, control, subnet string) machine {
	t.Helper()
	id := fmt.Sprintf("hearthe2e%s%04x", name, rand.IntN(1<<16))
	dir := filepath.Join(t.TempDir(), "agent")
	return machine{
		flags: []string{
			"--control", control, "--capacity-provider", providerName, "--zone", zone, "--data-dir", dir,
			"--containerd-namespace", id, "--cgroup-parent", "/" + id, "--nft-table", id, "--subnet", subnet,
			"--vcpu", "1", "--memory", "2GiB", "--drain-timeout", "5s",
		},
		scope: leftovers.Scope{
			Containerd: containerdSocket, Prefix: id, DataDirs: []string{dir}, Cgroups: []string{"/" + id},
			Subnets: []netip.Prefix{netip.MustParsePrefix(subnet)},
		},
	}
}

// TestHostsJoinByThemselves: hearth-control --fleet static, and two hosts that
// join with a token each, as docs/getting-started.md says. A host can be
// emptied and given back; a used token is good for nothing; --destroy leaves
// nothing on a host.
func TestHostsJoinByThemselves(t *testing.T) {
	if why := missing(); why != "" {
		t.Skip(why)
	}
	ports := freeAddresses(t, 4)
	s := &stack{t: t, dir: filepath.Join(t.TempDir(), "control"), api: "http://" + ports[0], operator: ports[2], metrics: "http://" + ports[3]}
	s.lambda = lambda.New(lambda.Options{
		Region: region, BaseEndpoint: aws.String(s.api), Retryer: aws.NopRetryer{}, HTTPClient: &http.Client{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "any", SecretAccessKey: "any"}, nil
		}),
	})
	octet := 100 + rand.IntN(100)
	one := newHost(t, "a", "rack-1", ports[1], fmt.Sprintf("10.%d.1.0/24", octet))
	two := newHost(t, "b", "rack-2", ports[1], fmt.Sprintf("10.%d.2.0/24", octet))
	launch(t, "hearth-control", "--fleet", "static", "--data-dir", s.dir, "--listen", ports[0], "--agent-listen", ports[1],
		"--operator-listen", ports[2], "--metrics-listen", ports[3], "--runtime-image", "provided.al2023=builtin:static")
	s.eventually(20*time.Second, "hearth-control to be ready", func() error { return s.get("/readyz") })
	s.provider("rack-1", "rack-2")
	first, second := s.token(), s.token()
	s.join(one, first)
	s.join(two, second)
	s.eventually(20*time.Second, "two instances", func() error { return s.running(2) })

	s.function(nil)
	if _, err := s.lambda.PutFunctionScalingConfig(t.Context(), &lambda.PutFunctionScalingConfigInput{
		FunctionName: aws.String(functionName), Qualifier: aws.String("$LATEST.PUBLISHED"),
		FunctionScalingConfig: &types.FunctionScalingConfig{MinExecutionEnvironments: aws.Int32(2), MaxExecutionEnvironments: aws.Int32(2)},
	}); err != nil {
		t.Fatal(err)
	}
	s.eventually(20*time.Second, "an environment on each host", func() error { return s.spread(map[string]int{"rack-1": 1, "rack-2": 1}) })
	if err := s.reaches(2); err != nil {
		t.Error(err)
	}

	// A token that was used is refused to another host.
	third := newHost(t, "c", "rack-1", ports[1], fmt.Sprintf("10.%d.3.0/24", octet))
	refused := s.join(third, first)
	if err := <-refused.exited; err == nil {
		t.Error("an agent with a used token ended without an error")
	}
	refused.cmd = nil
	if text, err := os.ReadFile(refused.log.Name()); err != nil || !strings.Contains(string(text), "was used by another host") {
		t.Errorf("the refused agent said %q, %v", text, err)
	}
	if err := s.running(2); err != nil {
		t.Error(err)
	}
	s.drainAndBack()
}

// drainAndBack empties the host in rack-1 and lets it take environments again.
func (s *stack) drainAndBack() {
	s.t.Helper()
	var list []instance
	s.hearth(&list, "instances")
	for _, in := range list {
		if in.Zone != "rack-1" {
			continue
		}
		if out, err := exec.Command(filepath.Join(bins, "hearth"), "drain", in.ID, "--control", s.operator).CombinedOutput(); err != nil {
			s.t.Fatalf("draining: %v: %s", err, out)
		}
		s.eventually(30*time.Second, "both environments on the other host", func() error { return s.spread(map[string]int{"rack-2": 2}) })
		if _, _, err := s.invoke(s.t.Context(), event{}); err != nil {
			s.t.Error(err)
		}
		if out, err := exec.Command(filepath.Join(bins, "hearth"), "undrain", in.ID, "--control", s.operator).CombinedOutput(); err != nil {
			s.t.Fatalf("undraining: %v: %s", err, out)
		}
		s.eventually(10*time.Second, "two running instances", func() error { return s.running(2) })
	}
}

// instance is a line of "hearth instances -o json".
type instance struct {
	ID    string `json:"id"`
	Zone  string `json:"zone"`
	State string `json:"state"`
}

// running fails unless there are n instances, all of them running.
func (s *stack) running(n int) error {
	s.t.Helper()
	var list []instance
	s.hearth(&list, "instances")
	up := 0
	for _, in := range list {
		if strings.EqualFold(in.State, "running") {
			up++
		}
	}
	if up != n || len(list) != n {
		return fmt.Errorf("instances %+v, want %d running", list, n)
	}
	return nil
}

// spread fails unless so many environments are ready in each zone.
func (s *stack) spread(want map[string]int) error {
	s.t.Helper()
	got := map[string]int{}
	envs := s.ps()
	for _, e := range envs {
		if e.State == "Ready" {
			got[e.Zone]++
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("environments %+v", envs)
	}
	return nil
}

// token mints a join token as an operator would.
func (s *stack) token() string {
	s.t.Helper()
	out, err := exec.Command(filepath.Join(bins, "hearth"), "token", "create", "--capacity-provider", providerName, "--control", s.operator).Output()
	if err != nil {
		s.t.Fatalf("making a token: %v", err)
	}
	return string(out)
}

// join starts a host's agent. At the end of the test it is stopped and the host
// cleaned.
func (s *stack) join(h machine, token string) *process {
	s.t.Helper()
	file := filepath.Join(s.t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { h.destroy(s.t) })
	return launch(s.t, "hearth-agent", append(h.flags, "--join-token-file", file)...)
}

// destroy removes what the host's agent made and checks that nothing is left.
func (h machine) destroy(t *testing.T) {
	if out, err := exec.Command(filepath.Join(bins, "hearth-agent"), append(h.flags, "--destroy")...).CombinedOutput(); err != nil {
		t.Errorf("destroying: %v\n%s", err, out)
	}
	left, err := leftovers.Snapshot(context.Background(), h.scope)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range left {
		if strings.Contains(line, h.scope.Prefix) || strings.Contains(line, h.scope.DataDirs[0]) {
			t.Errorf("left on the host: %s", line)
		}
	}
}
