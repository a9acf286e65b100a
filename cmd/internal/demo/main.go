// Command demo shows Hearth at work on this machine: it starts "hearth up" with
// a data directory of its own, deploys examples/hello-go through the Lambda API
// onto three instances in three zones, invokes it 200 times at concurrency 16,
// says where that ran and how long it took, and takes everything down again.
//
// It is run by "make demo", from the top of the repository, after "make build".
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/hearth-compute/hearth/cmd/internal/stack"
)

// What the demo does. The function sleeps a little, so that invokes overlap and
// the heat of a second shows them.
const (
	function    = "hello-go"
	invokes     = 200
	concurrency = 16
	asleep      = 250 * time.Millisecond
)

var errTooSlow = errors.New("the demo took longer than five minutes")

func main() {
	keep := flag.Bool("keep", false, "leave everything running and say what to try next")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errTooSlow)
	err := run(ctx, *keep)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, keep bool) (err error) {
	began := time.Now()
	archive, err := stack.BuildFunction(ctx, "./examples/hello-go")
	if err != nil {
		return err
	}
	say("built examples/hello-go: %d KiB zipped", len(archive)>>10)

	up, err := stack.Start(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil && keep {
			sayNext(up)
			return
		}
		if serr := up.Stop(); serr != nil {
			err = errors.Join(err, serr)
			return
		}
		say("took everything down again; the demo took %s", round(time.Since(began)))
	}()
	say("hearth up runs: Lambda API on http://%s (after %s)", up.Lambda, round(time.Since(began)))

	api := up.Client(concurrency)
	subnets := []string{"subnet-a", "subnet-b", "subnet-c"}
	say("creating capacity provider %s over %s and function %s on it", function, strings.Join(subnets, ", "), function)
	took, err := stack.Deploy(ctx, api, stack.Function{
		Name: function, Archive: archive, Subnets: subnets, MemoryMB: 512, MaxConcurrency: concurrency,
	})
	if err != nil {
		return up.Explain(err)
	}
	say("version 1 is Active %s after it was published, three instances launched", round(took))

	if err := show(ctx, up, api); err != nil {
		return up.Explain(err)
	}
	return nil
}

// show invokes the function and prints what a person would want to see.
func show(ctx context.Context, up *stack.Stack, api invoker) error {
	const event = `{"name": "you"}`
	_, payload, err := invoke(ctx, api, event)
	if err != nil {
		return fmt.Errorf("invoking %s: %w", function, err)
	}
	say("invoked it with %s; it answered\n   %s", event, payload)
	say("invoking it %d times, %d at once; it sleeps %s each time", invokes, concurrency, asleep)
	heat := make(chan string, 1) // one picture, taken while the invokes run
	go func() { heat <- pictureAfter(ctx, up, invokes/concurrency*asleep*2/3) }()
	res := load(ctx, api)
	picture := <-heat
	if res.answered() == 0 {
		return fmt.Errorf("no invoke succeeded: %w", res.firstErr())
	}
	placed, err := up.Environments(ctx)
	if err != nil {
		return err
	}
	res.print(os.Stdout, placed)
	fmt.Printf("\nwhile they ran:\n%s", picture)
	if bad := len(res.errs); bad > 0 {
		return fmt.Errorf("%d of %d invokes failed; the first: %w", bad, invokes, res.firstErr())
	}
	return nil
}

// pictureAfter waits and then returns what the operator's commands show.
func pictureAfter(ctx context.Context, up *stack.Stack, wait time.Duration) string {
	select {
	case <-ctx.Done():
		return ""
	case <-time.After(wait):
	}
	var b strings.Builder
	for _, command := range []string{"instances", "ps"} {
		out, err := up.Hearth(ctx, command)
		if err != nil {
			out = []byte(err.Error() + "\n")
		}
		fmt.Fprintf(&b, "$ hearth %s\n%s\n", command, out)
	}
	return b.String()
}

// sayNext prints what to try with a stack that was left running.
func sayNext(up *stack.Stack) {
	fmt.Printf(`
It is still running. Try:

  export AWS_ENDPOINT_URL_LAMBDA=http://%s AWS_DEFAULT_REGION=%s AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
  export HEARTH_CONTROL=%s
  echo '{"name": "Ada"}' | aws lambda invoke --function-name %s --qualifier 1 --payload fileb:///dev/stdin /dev/stdout
  aws lambda get-function-scaling-config --function-name %[4]s --qualifier 1
  ./bin/hearth ps
  ./bin/hearth instances -o json
  curl http://%[5]s/metrics
  tail -f %[6]s

When you have seen enough:

  sudo kill %[7]d    # takes everything down, containers included
`, up.Lambda, stack.Region, up.Operator, function, up.Metrics, up.LogFile(), up.PID())
}

func say(format string, args ...any) { fmt.Printf("── "+format+"\n", args...) }

func round(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
