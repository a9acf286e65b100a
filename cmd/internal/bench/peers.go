package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hearth-compute/hearth/cmd/internal/stack"
)

// What is compared is measured in turn, several rounds, so that what disturbs the
// machine disturbs all; the figure is the median of the rounds.
const (
	callers  = 32
	slots    = 32  // of Hearth's environments
	rieSlots = 256 // with fewer the emulator fails invokes
	rate     = 1000
)

// Two runtime clients: aws-lambda-go as it is, and one that keeps its connections.
type client struct {
	name string
	vars map[string]string
}

// The one that makes invokes wait: more callers than slots, and a handler that
// takes its time.
const (
	waiting  = "full A, waiting"
	waiters  = 48
	waitTime = 50 * time.Millisecond
)

func clients() []client {
	return []client{{"A", nil}, {"K", map[string]string{"CLIENT": "keep"}}}
}

// target is something that answers the event with itself.
type target struct {
	name string
	// processes whose CPU time is told.
	processes []string
	// caller makes what one caller calls.
	caller func() (call func(context.Context) error, hangUp func())
	// callers are how many there are.
	callers int
}

// figures are the medians of a target.
type figures struct {
	Name string `json:"name"`
	// PerSecond, P50 and P99 are with 32 callers, each calling again at once.
	PerSecond float64 `json:"perSecond"`
	P50Micros float64 `json:"p50Micros"`
	P99Micros float64 `json:"p99Micros"`
	// CPUMicros is CPU time per call of each process.
	CPUMicros map[string]float64 `json:"cpuMicros"`
	// SteadyP50Micros and SteadyP99Micros are at 1,000 calls a second, from the
	// moment each was due.
	SteadyP50Micros float64 `json:"steadyP50Micros"`
	SteadyP99Micros float64 `json:"steadyP99Micros"`
	Errors          int     `json:"errors"`
	FirstError      string  `json:"firstError,omitempty"`
}

// comparison says what to compare with, and for how long.
type comparison struct {
	duration time.Duration
	rounds   int
	// rie and queueProxy are programs; empty means skipped.
	rie, queueProxy string
}

// comparePeers measures Hearth and everything it is compared with.
func comparePeers(ctx context.Context, w io.Writer, c comparison) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	dir, err := os.MkdirTemp("", "hearth-bench-")
	if err != nil {
		return err
	}
	p := &peers{dir: dir, out: w}
	defer func() { err = errors.Join(err, p.close()) }()
	if p.archive, err = stack.BuildFunction(ctx, "./cmd/internal/bench/noop"); err != nil {
		return err
	}
	if err := errors.Join(p.floors(ctx), p.emulator(ctx, c.rie), p.queueProxy(ctx, c.queueProxy)); err != nil {
		return err
	}
	if err := p.fullPath(ctx); err != nil {
		return err
	}
	agent := newAgentBench(dir, slog.New(slog.DiscardHandler))
	defer func() { err = errors.Join(err, agent.Close()) }()
	if err := agent.Open(ctx, p.archive); err != nil {
		return err
	}
	vars := []map[string]string{clients()[0].vars, clients()[1].vars}
	return agent.serving(ctx, slots, vars, func(ctx context.Context) error {
		for i, c := range clients() {
			p.add("agent "+c.name, []string{"hearth-agent", "bootstrap", "bench"}, func() (func(context.Context) error, func()) {
				return func(ctx context.Context) error { return agent.call(ctx, i) }, func() {}
			})
		}
		return p.measure(ctx, c)
	})
}

// peers is everything that is compared.
type peers struct {
	dir     string
	out     io.Writer
	archive []byte
	targets []target
	closers []func() error
}

func (p *peers) close() error {
	var errs []error
	for _, f := range slices.Backward(p.closers) {
		errs = append(errs, f())
	}
	return errors.Join(append(errs, os.RemoveAll(p.dir))...)
}

func (p *peers) add(name string, processes []string, caller func() (func(context.Context) error, func())) {
	p.targets = append(p.targets, target{name, processes, caller, callers})
}

// start starts a program that listens on address.
func (p *peers) start(ctx context.Context, name, address, task string, env []string, args ...string) error {
	c, err := startChild(ctx, p.dir, name, address, task, env, args...)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, func() error { c.stop(); return nil })
	return nil
}

// addHTTP adds a target that is POSTed to.
func (p *peers) addHTTP(name, address, path string, signed bool, processes ...string) error {
	r, err := newRequest(address, path, signed)
	if err != nil {
		return err
	}
	p.add(name, processes, r.caller)
	return nil
}

// floors are an echo, called directly and through httputil.ReverseProxy.
func (p *peers) floors(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	echo, err := freePort(ctx)
	if err != nil {
		return err
	}
	if err := p.start(ctx, "echo", echo, "", nil, self, serveEcho, echo); err != nil {
		return err
	}
	proxy, err := freePort(ctx)
	if err != nil {
		return err
	}
	if err := p.start(ctx, "proxy", proxy, "", nil, self, serveProxy, proxy, echo); err != nil {
		return err
	}
	return errors.Join(p.addHTTP("echo", echo, "/", false, "bench-echo"),
		p.addHTTP("reverse proxy", proxy, "/", false, "bench-proxy", "bench-echo"))
}

// skip says that a peer is not there.
func (p *peers) skip(name, variable string) error {
	_, err := fmt.Fprintf(p.out, "SKIPPED: %s: say where it is with %s=PATH\n", name, variable)
	return err
}

// emulator is AWS's runtime interface emulator, for managed instances.
func (p *peers) emulator(ctx context.Context, path string) error {
	if path == "" {
		return p.skip("AWS's runtime interface emulator", "RIE")
	}
	task, err := p.unpack()
	if err != nil {
		return err
	}
	remove, err := ensureTask()
	if err != nil {
		return err
	}
	p.closers = append(p.closers, func() error { remove(); return nil })
	for _, c := range clients() {
		address, err := freePort(ctx)
		if err != nil {
			return err
		}
		api, err := freePort(ctx)
		if err != nil {
			return err
		}
		env := []string{"AWS_LAMBDA_MAX_CONCURRENCY=" + itoa(rieSlots), "AWS_LAMBDA_FUNCTION_TIMEOUT=30", "CLIENT=" + c.vars["CLIENT"]}
		if err := p.start(ctx, "rie-"+c.name, address, task, env, path,
			"--runtime-interface-emulator-address", address, "--runtime-api-address", api, "bootstrap", "handler"); err != nil {
			return err
		}
		if err := p.addHTTP("RIE "+c.name, address, "/2015-03-31/functions/function/invocations", false, comm(path), "bootstrap"); err != nil {
			return err
		}
	}
	return nil
}

// comm is how the kernel calls a program.
func comm(path string) string {
	name := filepath.Base(path)
	return name[:min(len(name), 15)]
}

// unpack writes the function where the emulator can be shown it.
func (p *peers) unpack() (string, error) {
	task := filepath.Join(p.dir, "task")
	return task, stack.Unzip(p.archive, task)
}

// queueProxy is Knative's, before the echo.
func (p *peers) queueProxy(ctx context.Context, path string) error {
	if path == "" {
		return p.skip("Knative's queue-proxy", "QUEUE_PROXY")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var ports [6]string
	for i := range ports {
		if ports[i], err = freePort(ctx); err != nil {
			return err
		}
	}
	if err := p.start(ctx, "queue-echo", ports[0], "", nil, self, serveEcho, ports[0]); err != nil {
		return err
	}
	if err := p.start(ctx, "queue-proxy", ports[1], "", queueProxyEnv(ports), path); err != nil {
		return err
	}
	return p.addHTTP("queue-proxy", ports[1], "/", false, comm(path), "bench-echo")
}

// queueProxyEnv is what Knative's webhook would set.
func queueProxyEnv(ports [6]string) []string {
	return []string{
		"CONTAINER_CONCURRENCY=0", "QUEUE_SERVING_PORT=" + portOf(ports[1]), "QUEUE_SERVING_TLS_PORT=" + portOf(ports[2]),
		"USER_PORT=" + portOf(ports[0]), "REVISION_TIMEOUT_SECONDS=30", "SERVING_NAMESPACE=n", "SERVING_REVISION=r",
		"SERVING_CONFIGURATION=c", "SERVING_POD=p", "SERVING_POD_IP=127.0.0.1", "SERVING_SERVICE=s",
		"SERVING_LOGGING_CONFIG={}", "SERVING_LOGGING_LEVEL=error", "METRICS_DOMAIN=d", "SYSTEM_NAMESPACE=n",
		`SERVING_READINESS_PROBE={"tcpSocket":{"port":` + portOf(ports[0]) + `,"host":"127.0.0.1"}}`,
		"ENABLE_HTTP_FULL_DUPLEX=false", "ENABLE_HTTP2_AUTO_DETECTION=false",
	}
}

// fullPath is all of Hearth, with signatures verified.
func (p *peers) fullPath(ctx context.Context) error {
	keys := filepath.Join(p.dir, "keys")
	text := fmt.Sprintf("[bench]\naws_access_key_id = %s\naws_secret_access_key = %s\n", stack.AccessKey, stack.SecretKey)
	if err := os.WriteFile(keys, []byte(text), 0o600); err != nil {
		return err
	}
	up, err := stack.Start(ctx, "--local-subnet-pool", "10.212.0.0/16", "--local-max-instances", "12", "--access-keys-file", keys, "--sigv4", "on")
	if err != nil {
		return err
	}
	p.closers = append(p.closers, up.Stop)
	api := up.Client(1)
	functions := append(clients(), client{waiting, map[string]string{"SLEEP": waitTime.String()}})
	for i, c := range functions {
		name := fmt.Sprintf("bench-%d", i)
		_, err = stack.Deploy(ctx, api, stack.Function{
			Name: name, Archive: p.archive, Subnets: []string{"subnet-a"}, MemoryMB: memoryMB, MaxConcurrency: slots, Variables: c.vars,
		})
		if err != nil {
			return up.Explain(err)
		}
		if err := keepOne(ctx, up, api, name, i+1); err != nil {
			return up.Explain(err)
		}
		target := "full " + c.name
		if c.name == waiting {
			target = waiting
		}
		err := p.addHTTP(target, up.Lambda, "/2015-03-31/functions/"+name+"/invocations?Qualifier=1", true,
			"hearth-control", "hearth-agent", "bootstrap")
		if err != nil {
			return err
		}
	}
	p.targets[len(p.targets)-1].callers = waiters
	return nil
}

// measure measures every target in each round and tells the medians.
func (p *peers) measure(ctx context.Context, c comparison) error {
	all := make([][]figures, len(p.targets))
	for round := range c.rounds {
		for i, t := range p.targets {
			f, err := t.measure(ctx, c.duration)
			if err != nil {
				return fmt.Errorf("measuring %s: %w", t.name, err)
			}
			all[i] = append(all[i], f)
			if _, err := fmt.Fprintf(p.out, "round %d: %-14s %8.0f/s\n", round+1, t.name, f.PerSecond); err != nil {
				return err
			}
		}
	}
	var medians []figures
	for i, t := range p.targets {
		medians = append(medians, median(t, all[i]))
	}
	return errors.Join(report(p.out, medians), write("peers", medians))
}

// measure calls a target for a while, as often as it can, then at a fixed rate.
func (t *target) measure(ctx context.Context, duration time.Duration) (figures, error) {
	f := figures{Name: t.name, CPUMicros: map[string]float64{}}
	t.load(ctx, duration/5, 0) // to warm up
	before, err := cpuTimesOf("/proc", t.processes)
	if err != nil {
		return f, err
	}
	full := t.load(ctx, duration, 0)
	after, err := cpuTimesOf("/proc", t.processes)
	if err != nil {
		return f, err
	}
	steady := full
	if t.name != waiting { // it cannot do so many
		steady = t.load(ctx, duration, rate)
	}
	f.Errors = full.errs + steady.errs
	if err := cmp.Or(full.firstErr, steady.firstErr); err != nil {
		f.FirstError = err.Error()
	}
	if len(full.latencies) == 0 || len(steady.latencies) == 0 {
		return f, fmt.Errorf("no call succeeded: %s", f.FirstError)
	}
	f.PerSecond = float64(len(full.latencies)) / full.took.Seconds()
	f.P50Micros, f.P99Micros = inMicros(full.percentile(50)), inMicros(full.percentile(99))
	f.SteadyP50Micros, f.SteadyP99Micros = inMicros(steady.percentile(50)), inMicros(steady.percentile(99))
	for name, used := range after.since(before) {
		f.CPUMicros[name] = inMicros(used) / float64(len(full.latencies))
	}
	return f, ctx.Err()
}

func inMicros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// load calls from many callers at once: again and again, or perSecond times a
// second whether or not the calls before have ended.
func (t *target) load(ctx context.Context, duration time.Duration, perSecond int) result {
	var mu sync.Mutex // guards all
	var all result
	began := time.Now()
	due := schedule(ctx, began, duration, perSecond)
	var wg sync.WaitGroup
	for range t.callers {
		wg.Go(func() {
			call, hangUp := t.caller()
			defer hangUp()
			var mine result
			for ctx.Err() == nil {
				start, more := time.Now(), true
				if due != nil {
					start, more = <-due
				}
				if !more || start.Sub(began) > duration {
					break
				}
				if err := call(ctx); err != nil {
					mine.errs++
					mine.firstErr = cmp.Or(mine.firstErr, err)
					continue
				}
				mine.latencies = append(mine.latencies, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all.latencies = append(all.latencies, mine.latencies...)
			all.errs += mine.errs
			all.firstErr = cmp.Or(all.firstErr, mine.firstErr)
		})
	}
	wg.Wait()
	all.took = time.Since(began)
	slices.Sort(all.latencies)
	return all
}

// schedule sends the moments at which calls are due; nil when they never are.
func schedule(ctx context.Context, began time.Time, duration time.Duration, perSecond int) <-chan time.Time {
	if perSecond == 0 {
		return nil
	}
	n := int(duration.Seconds() * float64(perSecond))
	due := make(chan time.Time, n) // nobody waits to say that a call is due
	go func() {
		defer close(due)
		for i := range n {
			at := began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
			if wait := time.Until(at); wait > 0 {
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return
				}
			}
			due <- at
		}
	}()
	return due
}

// median is the median of each figure over the rounds.
func median(t target, rounds []figures) figures {
	middle := func(of func(figures) float64) float64 {
		values := make([]float64, 0, len(rounds))
		for _, f := range rounds {
			values = append(values, of(f))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	m := figures{Name: t.name, CPUMicros: map[string]float64{}}
	m.PerSecond = middle(func(f figures) float64 { return f.PerSecond })
	m.P50Micros = middle(func(f figures) float64 { return f.P50Micros })
	m.P99Micros = middle(func(f figures) float64 { return f.P99Micros })
	m.SteadyP50Micros = middle(func(f figures) float64 { return f.SteadyP50Micros })
	m.SteadyP99Micros = middle(func(f figures) float64 { return f.SteadyP99Micros })
	for _, name := range t.processes {
		m.CPUMicros[name] = middle(func(f figures) float64 { return f.CPUMicros[name] })
	}
	for _, f := range rounds {
		m.Errors += f.Errors
		m.FirstError = cmp.Or(m.FirstError, f.FirstError)
	}
	return m
}

// write keeps the figures for whoever compares runs.
func write(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing figures: %w", err)
	}
	dir := filepath.Join("bin", "bench")
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // G301: for everybody to read
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".json"), append(text, '\n'), 0o644) //nolint:gosec // G306: for everybody to read
}
