// Command overload measures what an environment does when more is asked of it
// than it can do: one environment of 1 vCPU in a real container, a function that
// uses 10 ms of CPU time an invocation, and arrivals that do not wait for answers,
// at parts and multiples of its capacity. The function has one CPU of the machine
// for itself, the generator and the daemons share another.
//
// Goodput is answers within the SLO, ten times what an invocation takes alone:
// answers that come later are of no use to whoever waits. Capacity is the best
// goodput measured in the run. The first seconds of each phase are not counted.
// Calls go from the control service's end of an agent's session to the agent, not
// through the router: what is measured is the environment's own admission, without
// the router's wait for a slot. Latency is counted from when an invocation was due
// to arrive.
//
// It is run by "make bench-overload" as root, from the top of the repository, and
// leaves bin/bench/overload.json and plots beside it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hearth-compute/hearth/cmd/internal/bench/alone"
	"github.com/hearth-compute/hearth/cmd/internal/stack"
	"github.com/hearth-compute/hearth/controlplane"
)

var errTooSlow = errors.New("the benchmark took longer than half an hour")

// sloFactor is how many times as long as alone an answer may take to be of use.
const sloFactor = 10

func main() {
	length := flag.Duration("duration", 20*time.Second, "how long each phase is measured")
	warmUp := flag.Duration("warm-up", 5*time.Second, "how long each phase goes before it is measured")
	out := flag.String("out", "bin/bench", "directory for overload.json and the plots")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Minute, errTooSlow)
	err := measure(ctx, *length, *warmUp, *out)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "overload:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	length, warmUp time.Duration
	archive        []byte
	result         Result
	// alone is how long an invocation takes alone.
	alone time.Duration
	// estimate is the capacity that rates are multiples of.
	estimate float64
}

func measure(ctx context.Context, length, warmUp time.Duration, out string) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	archive, err := stack.BuildFunction(ctx, "./cmd/internal/bench/overload/burn")
	if err != nil {
		return err
	}
	if err := pinSelf(); err != nil {
		return err
	}
	b := &bench{length: length, warmUp: warmUp, archive: archive}
	if err := b.with(ctx, "", b.limited); err != nil {
		return err
	}
	if err := b.with(ctx, "--fixed-limits", b.unlimited); err != nil {
		return err
	}
	b.result.judge()
	if err := b.result.write(out); err != nil {
		return err
	}
	return b.result.err()
}

// with runs f with an agent of its own.
func (b *bench) with(ctx context.Context, flags string, f func(context.Context, *rig) error) (err error) {
	dir, err := os.MkdirTemp("", "hearth-overload-")
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "bench.log")) //nolint:gosec // G304: in a directory of our own
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	r := &rig{weights: weights{}, Agent: alone.Agent{
		Dir: dir, Log: slog.New(slog.NewTextHandler(log, nil)), Subnets: netip.MustParsePrefix("10.214.0.0/16"), Args: strings.Fields(flags),
	}}
	defer func() {
		if err = errors.Join(err, r.close()); err != nil {
			err = fmt.Errorf("%w (logs are in %s)", err, dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	if err := r.Open(ctx, b.archive); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	done := make(chan error, 2) // one from each loop
	go func() { done <- r.Server.Run(ctx) }()
	go func() { done <- r.Fleet.Run(ctx) }()
	err = f(ctx, r)
	stop(errMeasured)
	return errors.Join(err, <-done, <-done)
}

func burnEvent(cpu time.Duration) string { return fmt.Sprintf(`{"cpuMicros":%d}`, cpu.Microseconds()) }

func always(event string) func(time.Duration) string {
	return func(time.Duration) string { return event }
}

// begin starts an environment and puts it on its CPU.
func begin(ctx context.Context, r *rig, env controlplane.EnvironmentID, slots int) error {
	if err := r.start(ctx, env, slots); err != nil {
		return err
	}
	return pinEnvironment(string(env), r.weights)
}

// ceiling is the configured concurrency of the CPU phases.
const ceiling = 64

// limited measures with everything on.
func (b *bench) limited(ctx context.Context, r *rig) error {
	const env = controlplane.EnvironmentID("e-overload-cpu")
	if err := begin(ctx, r, env, ceiling); err != nil {
		return err
	}
	event := burnEvent(10 * time.Millisecond)
	r.estimate(ctx, env, event, 4, b.warmUp/2) // until caches are warm
	_, b.alone = r.estimate(ctx, env, event, 1, b.length/5)
	b.estimate, _ = r.estimate(ctx, env, event, 4, b.length/4)
	if b.alone == 0 || b.estimate == 0 {
		return errors.New("no invocation succeeded")
	}
	b.result.AloneMS, b.result.SLOMS = millis(b.alone), millis(sloFactor*b.alone)
	b.result.Estimate = b.estimate
	for _, load := range []float64{0.5, 0.9, 1, 2, 3, 5} {
		p := r.run(ctx, b.workload(fmt.Sprintf("%g ×", load), env, event, load))
		b.result.CPU = append(b.result.CPU, p)
		p.print()
	}
	b.cost(ctx, r, env)
	if err := b.memory(ctx, r); err != nil {
		return err
	}
	return b.disk(ctx, r)
}

func (b *bench) workload(name string, env controlplane.EnvironmentID, event string, load float64) workload {
	return workload{
		name: name, env: env, event: always(event), load: load, rate: load * b.estimate,
		warmUp: b.warmUp, length: b.length, slo: sloFactor * b.alone,
	}
}

// cost has the handler's cost go from 2 to 20 ms and back, at a rate that the
// environment can do at the one but not at the other.
func (b *bench) cost(ctx context.Context, r *rig, env controlplane.EnvironmentID) {
	third := max(b.length/2, 6*time.Second)
	w := b.workload("2, 20, 2 ms", env, "", 2)
	w.warmUp, w.length = 0, 3*third
	w.event = func(at time.Duration) string {
		if at >= third && at < 2*third {
			return burnEvent(20 * time.Millisecond)
		}
		return burnEvent(2 * time.Millisecond)
	}
	b.result.Cost = r.run(ctx, w)
	b.result.Cost.print()
}

// memory has more memory asked for than there is, in bursts: a vCPU cannot write
// to 2 GiB every 200 ms, so that steady arrivals of as many would lack CPU time
// first, and a burst is what outruns the samples.
func (b *bench) memory(ctx context.Context, r *rig) error {
	const env = controlplane.EnvironmentID("e-overload-memory")
	if err := begin(ctx, r, env, 256); err != nil {
		return err
	}
	before, _ := r.status(env)
	w := b.workload("20 MiB for 200 ms", env, `{"holdMB":20,"holdMillis":200}`, 0)
	w.burst = 150 // 3000 MiB
	w.rate, w.warmUp, w.length, w.slo = float64(w.burst)/4, 0, max(b.length, 20*time.Second), 4*time.Second
	b.result.Memory = r.run(ctx, w)
	b.result.Memory.print()
	after, ok := r.status(env)
	b.result.MemorySurvived = ok && after.State == controlplane.EnvironmentReady && after.Sandbox == before.Sandbox
	return nil
}

// disk fills /tmp and waits for a new environment.
func (b *bench) disk(ctx context.Context, r *rig) error {
	const env = controlplane.EnvironmentID("e-overload-disk")
	if err := begin(ctx, r, env, 8); err != nil {
		return err
	}
	before, _ := r.status(env)
	w := b.workload("64 MiB in /tmp", env, `{"fillMB":64}`, 0)
	w.rate, w.warmUp, w.length, w.slo = 4, 0, 5*time.Second, 10*time.Second
	b.result.Disk = r.run(ctx, w)
	b.result.Disk.print()
	began := time.Now()
	err := eventually(ctx, "the environment with the full /tmp is replaced", func() (bool, error) {
		now, ok := r.status(env)
		return ok && now.State == controlplane.EnvironmentReady && now.Sandbox != before.Sandbox, nil
	})
	if err != nil {
		return err
	}
	b.result.DiskReplacedSeconds = time.Since(began).Seconds()
	return r.call(ctx, env, `{}`)
}

// unlimited measures what happens without admission by CPU.
func (b *bench) unlimited(ctx context.Context, r *rig) error {
	const env = controlplane.EnvironmentID("e-overload-off")
	if err := begin(ctx, r, env, ceiling); err != nil {
		return err
	}
	event := burnEvent(10 * time.Millisecond)
	for _, load := range []float64{0.5, 0.9, 1, 2, 3, 5} {
		p := r.run(ctx, b.workload(fmt.Sprintf("off, %g ×", load), env, event, load))
		b.result.Off = append(b.result.Off, p)
		p.print()
	}
	return nil
}
