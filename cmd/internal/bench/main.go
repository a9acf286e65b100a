// Command bench measures invokes on this machine: latency, throughput and CPU of
// each process, at several concurrencies: on the full path (HTTP to the Lambda
// API, router, agent, function), to an agent alone, and, as the floor, to an echo
// in this process. Load generator
// and everything measured share the machine's cores, so compare numbers of one
// run with each other, not with those of other machines. Processes are told apart
// by name, so another Hearth on the machine is counted too.
//
// It is run by "make bench" as root, from the top of the repository, after "make
// build".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hearth-compute/hearth/cmd/internal/stack"
)

// The function is hello-go without sleep, in one environment with two vCPUs, so
// that its quota is not what is measured on a small machine.
const (
	function       = "bench"
	memoryMB       = 4096
	maxConcurrency = 64
)

// params are what the command line says.
type params struct {
	duration      time.Duration
	concurrencies []int
	archive       []byte
}

var errTooSlow = errors.New("the benchmark took longer than twenty minutes")

func main() {
	if len(os.Args) > 1 && slices.Contains([]string{serveEcho, serveProxy, inTask}, os.Args[1]) {
		fmt.Fprintln(os.Stderr, "bench:", serve(os.Args[1:]))
		os.Exit(1)
	}
	duration := flag.Duration("duration", 5*time.Second, "how long each measurement takes")
	only := flag.String("only", "", "measure one path only: floor, full or agent")
	list := flag.String("concurrency", "1,16,32", "numbers of callers, separated by commas")
	peers := flag.Bool("peers", false, "compare with other programs")
	c := comparison{}
	flag.IntVar(&c.rounds, "rounds", 5, "how often each is measured in turn, with -peers and -start")
	flag.StringVar(&c.rie, "rie", "", "`path` of AWS's runtime interface emulator, for -peers")
	flag.StringVar(&c.queueProxy, "queue-proxy", "", "`path` of Knative's queue-proxy, for -peers")
	starts := flag.Bool("start", false, "measure starts of environments, and the agent's memory; -rounds applies")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Minute, errTooSlow)
	var err error
	switch {
	case *starts:
		err = measureStarts(ctx, os.Stdout, c.rounds)
	case *peers:
		c.duration = *duration
		err = comparePeers(ctx, os.Stdout, c)
	default:
		err = run(ctx, os.Stdout, *duration, *list, *only)
	}
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer, duration time.Duration, list, only string) error {
	concurrencies, err := parseConcurrencies(list)
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"", "floor", "full", "agent"}, only) {
		return fmt.Errorf("-only %q: want floor, full or agent", only)
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	archive, err := stack.BuildFunction(ctx, "./examples/hello-go")
	if err != nil {
		return err
	}
	p := params{duration: duration, concurrencies: concurrencies, archive: archive}
	for _, path := range []struct {
		id, name string
		measure  func(context.Context, io.Writer, params) error
	}{
		{"floor", "floor: HTTP → echo in this process", floor},
		{"full", "full path: HTTP → hearth-control → hearth-agent → function", fullPath},
		{"agent", "agent alone: gRPC → hearth-agent → function", agentAlone},
	} {
		if only != "" && only != path.id {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s\n%s\n", path.name, header()); err != nil {
			return err
		}
		if err := path.measure(ctx, w, p); err != nil {
			return err
		}
	}
	return nil
}

func parseConcurrencies(list string) ([]int, error) {
	var concurrencies []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxConcurrency {
			return nil, fmt.Errorf("concurrency %q: want a number from 1 to %d", text, maxConcurrency)
		}
		concurrencies = append(concurrencies, n)
	}
	return concurrencies, nil
}

// measureAll runs call at each concurrency, after a moment to warm up, and
// prints a line for each.
func measureAll(ctx context.Context, w io.Writer, p params, call func(context.Context) error) error {
	load(ctx, maxConcurrency/2, p.duration/5, call)
	for _, n := range p.concurrencies {
		before, err := cpuTimes("/proc")
		if err != nil {
			return err
		}
		res := load(ctx, n, p.duration, call)
		after, err := cpuTimes("/proc")
		if err != nil {
			return err
		}
		if len(res.latencies) == 0 {
			return fmt.Errorf("no invoke succeeded at concurrency %d: %w", n, res.firstErr)
		}
		if _, err := fmt.Fprintln(w, res.line(n, after.since(before))); err != nil {
			return err
		}
	}
	return nil
}
