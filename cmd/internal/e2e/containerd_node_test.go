//go:build node

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// containerd is one of the test's own, to be killed and restarted at will.
type containerd struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
}

// ownContainerd starts one. It ends with the test.
func ownContainerd(t *testing.T) *containerd {
	t.Helper()
	if why := missing(); why != "" {
		t.Skip(why)
	}
	dir, err := os.MkdirTemp("", "hearth-ctd-") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	c := &containerd{t: t, dir: dir}
	toml := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.address())
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start()
	t.Cleanup(func() {
		c.end(syscall.SIGKILL)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *containerd) address() string { return filepath.Join(c.dir, "c.sock") }

func (c *containerd) start() {
	c.t.Helper()
	if c.cmd != nil {
		return
	}
	c.cmd = exec.Command("containerd", "--config", filepath.Join(c.dir, "config.toml"))
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", c.address())
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Since(begin) > 20*time.Second {
			c.t.Fatalf("containerd does not listen: %v", err)
		}
	}
}

// end ends it in order or not, and returns when it is gone.
func (c *containerd) end(sig syscall.Signal) {
	c.t.Helper()
	if c.cmd == nil {
		return
	}
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := c.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	c.cmd = nil
	_ = os.Remove(c.address())
}

// TestContainerdKilledAndRestarted: kill -9 and SIGTERM of containerd, which
// then is away for a while. Functions neither stop nor are replaced, and take
// invokes as before. What is published meanwhile is Pending, says why, and runs
// once containerd is back; so is an environment that dies meanwhile.
func TestContainerdKilledAndRestarted(t *testing.T) {
	c := ownContainerd(t)
	s := up(t, onContainerd(c.address()))
	s.provider("subnet-a", "subnet-b", "subnet-c")
	s.function(concurrency(4))
	s.allReady()
	for _, way := range []struct {
		name   string
		signal syscall.Signal
	}{{"kill -9", syscall.SIGKILL}, {"SIGTERM", syscall.SIGTERM}} {
		s.step(way.name, func() { s.withoutContainerd(c, way.signal) })
	}
}

func (s *stack) withoutContainerd(c *containerd, sig syscall.Signal) {
	t := s.t
	before := s.functions()
	callers := s.hold(3, 4*time.Second)
	s.eventually(3*time.Second, "three invokes in flight", s.inFlight(3))
	c.end(sig)
	defer c.start() // also when something is wrong: the stack needs it to stop
	s.answers()
	version, err := s.lambda.PublishVersion(t.Context(), &lambda.PublishVersionInput{FunctionName: aws.String(functionName), Description: aws.String(sig.String())})
	if err != nil {
		t.Fatal(err)
	}
	name := aws.ToString(version.Version)
	s.eventually(20*time.Second, "the version to say why it does not run", func() error {
		return s.pendingFor(name, "containerd does not answer at "+c.address())
	})
	for _, f := range callers.wait() {
		t.Errorf("an invoke that ran when containerd went: %v", f.err)
	}
	victim := before[0]
	kill(t, victim)
	begin := time.Now()
	c.start()
	s.back(begin, backToWork, "the version published meanwhile is Active after the start of containerd", s.runs(name))
	s.back(begin, backToWork, "the environment that died meanwhile is replaced after the start of containerd", func() error {
		pids := s.functions()
		if slices.Contains(pids, victim) || len(pids) != 6 {
			return fmt.Errorf("processes %v, want 3 of each version", pids)
		}
		return nil
	})
	for _, pid := range before[1:] {
		if !slices.Contains(s.functions(), pid) {
			t.Errorf("process %d was replaced", pid)
		}
	}
	if _, err := s.lambda.DeleteFunction(t.Context(), &lambda.DeleteFunctionInput{FunctionName: aws.String(functionName), Qualifier: aws.String(name)}); err != nil {
		t.Fatal(err)
	}
	s.eventually(20*time.Second, "the environments of the deleted version to go", func() error { return three(s.functions()) })
	s.allReady()
}

// pendingFor fails unless a version is Pending with a reason that names why.
func (s *stack) pendingFor(version, why string) error {
	f, err := s.lambda.GetFunctionConfiguration(s.t.Context(), &lambda.GetFunctionConfigurationInput{
		FunctionName: aws.String(functionName), Qualifier: aws.String(version),
	})
	if err != nil {
		return err
	}
	if f.State != types.StatePending {
		s.t.Fatalf("version %s is %s (%s: %s), want Pending", version, f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
	if reason := aws.ToString(f.StateReason); !strings.Contains(reason, why) {
		return fmt.Errorf("reason %q does not name %s", reason, why)
	}
	return nil
}

// three fails unless there are three processes.
func three(pids []int) error {
	if len(pids) != 3 {
		return fmt.Errorf("processes %v", pids)
	}
	return nil
}
