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
	"syscall"
	"time"
)

// What the demo does. The function sleeps a little, so that invokes overlap and
// the heat of a second shows them.
const (
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
	archive, err := buildFunction(ctx)
	if err != nil {
		return err
	}
	say("built examples/hello-go: %d KiB zipped", len(archive)>>10)

	up, err := startStack(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil && keep {
			up.sayNext()
			return
		}
		if serr := up.stop(); serr != nil {
			err = errors.Join(err, serr)
			return
		}
		say("took everything down again; the demo took %s", round(time.Since(began)))
	}()
	say("hearth up runs: Lambda API on http://%s (%s)", up.lambda, round(time.Since(began)))

	api := newClient(up.lambda)
	took, err := deploy(ctx, api, archive)
	if err != nil {
		return up.explain(err)
	}
	say("hello-go is Active %s after it was published", round(took))

	if err := show(ctx, up, api); err != nil {
		return up.explain(err)
	}
	return nil
}

// show invokes the function and prints what a person would want to see.
func show(ctx context.Context, up *stack, api invoker) error {
	if err := greetOnce(ctx, api); err != nil {
		return err
	}
	say("invoking it %d times, %d at once; it sleeps %s each time", invokes, concurrency, asleep)
	heat := make(chan string, 1) // one picture, taken while the invokes run
	go func() { heat <- up.pictureAfter(ctx, invokes/concurrency*asleep*2/3) }()
	res := load(ctx, api)
	picture := <-heat
	if res.answered() == 0 {
		return fmt.Errorf("no invoke succeeded: %w", res.firstErr())
	}
	placed, err := up.environments(ctx)
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

func say(format string, args ...any) { fmt.Printf("── "+format+"\n", args...) }

func round(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
