package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi"
	"github.com/hearth-compute/hearth/sandbox"
)

var (
	errRetired      = errors.New("environment is retired")
	errOverran      = errors.New("an invocation ran beyond its deadline")
	errTooLong      = errors.New("sandbox driver took too long")
	errNotSettled   = errors.New("function timeout has passed")
	errFetchTooLong = errors.New("download took too long")
)

// newSandboxID names the next incarnation of an environment.
func newSandboxID(id agent.EnvironmentID) sandbox.ID {
	return sandbox.ID(string(id) + "-" + strings.ToLower(rand.Text()[:8]))
}

// incarnateLocked records a new incarnation in phase starting. The context it
// returns ends when the incarnation is retired.
func (p *Pool) incarnateLocked(ctx context.Context, id sandbox.ID, a agent.Assignment) (*incarnation, context.Context) {
	ctx, retire := context.WithCancelCause(ctx)
	in := &incarnation{
		id:         id,
		assignment: a,
		retire:     retire,
		fallen:     make(chan struct{}),
		exited:     make(chan struct{}),
		phase:      PhaseStarting,
	}
	e := p.environmentLocked(a)
	api := runtimeapi.Config{
		Environment: a.Environment, Concurrency: max(1, a.MaxConcurrency), CPU: a.Limits.CPU, Answers: p.cfg.Answers, Log: p.cfg.Log,
		PerInvoke: e.learnedLocked(), Unlimited: p.cfg.Unlimited, Worn: p.wake, StreamRate: p.cfg.StreamRate,
		Function: runtimeapi.Function{Name: a.FunctionName, Version: a.Version, Handler: a.Handler, AccountID: accountID(a.FunctionARN)},
	}
	api.Traces, api.ActiveTracing = p.cfg.Traces, a.TracingMode == "Active"
	if a.OnDemand {
		api.TimedOut = func() { p.overran(in) }
	}
	api.Logs = p.cfg.Output.follow(id, a)
	in.telemetry = p.newTelemetry(id, a)
	api.Telemetry = in.telemetry
	in.api = runtimeapi.New(api)
	in.token = p.newToken(a)
	p.grant(in, tokenHash(in.token))
	p.sandboxes[id] = in
	e.incarnations = append(e.incarnations, in)
	e.sandbox = id
	return in, ctx
}

// live is the life of one incarnation from creation to removal. It returns
// early, leaving the sandbox as it is, when agentCtx ends; ctx ends with it, or
// when the incarnation is retired.
func (p *Pool) live(agentCtx, ctx context.Context, in *incarnation) {
	var serving sync.WaitGroup
	serveCtx, stopServing := context.WithCancelCause(agentCtx)
	release, err := p.bringUp(ctx, in, func(runtime, init net.Listener) {
		serving.Go(func() {
			if err := in.api.Serve(serveCtx, runtime); err != nil {
				p.cfg.Log.ErrorContext(ctx, "runtime api stopped", "environment", string(in.assignment.Environment), "err", err)
				in.retire(err)
			}
		})
		serving.Go(func() { p.converse(serveCtx, in, init) })
		serving.Go(func() { in.telemetry.Run(serveCtx) })
	})
	defer release()
	defer serving.Wait()
	defer stopServing(errRetired)
	if err == nil {
		p.becameReady(in)
		select {
		case <-in.fallen:
		case <-ctx.Done():
		}
	}
	if agentCtx.Err() != nil {
		return
	}
	in.tellFailure(err)
	p.ended(in, err)
	p.dispose(agentCtx, in)
}

// bringUp does everything up to the first /next. release gives back what was
// taken, also after an error.
func (p *Pool) bringUp(ctx context.Context, in *incarnation, serve func(runtime, init net.Listener)) (release func(), err error) {
	if in.adopted {
		release = p.keepUnpacked(in.assignment)
	} else {
		var spec sandbox.Spec
		if spec, release, err = p.prepare(ctx, in); err != nil {
			return release, err
		}
		if err := p.create(ctx, in, spec); err != nil {
			return release, err
		}
	}
	if err := p.listen(ctx, in, serve); err != nil {
		return release, err
	}
	if in.adopted {
		return release, p.awaitReturn(ctx, in)
	}
	p.awaitCredentials(ctx, in)
	in.telemetry.InitStart(in.logStream)
	if err := p.bounded(ctx, func(ctx context.Context) error { return p.cfg.Runtime.Start(ctx, in.id) }); err != nil {
		return release, err
	}
	return release, p.awaitReady(ctx, in)
}

// listen opens what the runtime and the init process of an incarnation dial.
func (p *Pool) listen(ctx context.Context, in *incarnation, serve func(runtime, init net.Listener)) error {
	runtime, err := p.cfg.Runtime.Listen(ctx, in.id, runtimeAddress)
	if err != nil {
		return fmt.Errorf("opening the runtime api of %s: %w", in.id, err)
	}
	init, err := p.cfg.Runtime.Listen(ctx, in.id, linkAddress)
	if err != nil {
		_ = runtime.Close()
		return fmt.Errorf("opening the link to init of %s: %w", in.id, err)
	}
	serve(runtime, init)
	return nil
}

// pull makes an image available, with the host's credentials if it came with
// none.
func (p *Pool) pull(ctx context.Context, image agent.Image) (sandbox.ImageConfig, error) {
	if p.cfg.Credentials != nil {
		var err error
		if image, err = p.cfg.Credentials(image); err != nil {
			return sandbox.ImageConfig{}, err
		}
	}
	config, err := p.cfg.Runtime.Pull(ctx, sandbox.Image{Ref: image.Ref, Username: image.Username, Password: image.Password})
	switch {
	case !errdefs.IsUnauthorized(err) && !errdefs.IsPermissionDenied(err):
		return config, err
	case image.Username == "":
		return config, fmt.Errorf("the registry wants credentials, and this host has none for it: %w", err)
	}
	return config, fmt.Errorf("the registry refuses the credentials that this host has for it, of user %q: %w", image.Username, err)
}

// prepare fetches image and code and makes the spec.
func (p *Pool) prepare(ctx context.Context, in *incarnation) (sandbox.Spec, func(), error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchLimit, errFetchTooLong)
	defer cancel()
	a, release := in.assignment, func() {}
	if err := validate(a); err != nil {
		return sandbox.Spec{}, release, err
	}
	image, err := p.pull(ctx, a.Image)
	if err != nil {
		return sandbox.Spec{}, release, pullError(err)
	}
	b := build{assignment: a, sandbox: in.id, image: image, region: p.cfg.Region, token: in.token, now: time.Now()}
	if b.unpacked, release, err = p.unpack(ctx, a); err != nil {
		return sandbox.Spec{}, release, err
	}
	if b.metadata, err = p.cfg.Encode(a); err != nil {
		return sandbox.Spec{}, release, fmt.Errorf("encoding assignment %s: %w", a.Environment, err)
	}
	spec := b.spec()
	in.logStream = b.logStream()
	in.extensionEnv = b.extensionEnvironment()
	if len(spec.Args) == 0 {
		return spec, release, &startError{code: codeInvalidEntryPoint, reason: "Runtime.InvalidEntrypoint: image has neither entry point nor command", class: errdefs.ErrFailedPrecondition}
	}
	return spec, release, nil
}

// create makes the sandbox, a few at a time.
func (p *Pool) create(ctx context.Context, in *incarnation, spec sandbox.Spec) error {
	select {
	case p.starts <- struct{}{}:
		defer func() { <-p.starts }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return p.bounded(ctx, func(ctx context.Context) error {
		status, err := p.cfg.Runtime.Create(ctx, spec)
		if err != nil {
			return createError(err)
		}
		p.created(in, status)
		return nil
	})
}

// bounded runs one call to the driver that ctx must not interrupt midway.
func (*Pool) bounded(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), createLimit, errTooLong)
	defer cancel()
	return f(ctx)
}

// awaitReady waits for the runtime and the extensions, which come before it.
func (p *Pool) awaitReady(ctx context.Context, in *incarnation) error {
	limit := time.NewTimer(in.assignment.InitTimeout)
	defer limit.Stop()
	registered := in.api.Registered()
	for {
		select {
		case <-registered:
			registered = nil
			in.startRuntime()
			in.runtimeRuns = true
		case <-in.api.Failed():
			return p.initFailed(ctx, in)
		case <-in.api.Ready():
			in.runtimeRuns = true
			return nil
		case <-in.fallen:
			return p.initFailed(ctx, in)
		case <-limit.C:
			return initTimeout(in.assignment.InitTimeout, in.api.Missing(), p.cfg.Output.last(in.id))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// initFailed is why an incarnation failed that has said so, or whose process has
// ended.
func (p *Pool) initFailed(ctx context.Context, in *incarnation) error {
	in.awaitLastWords(ctx)
	if closed(in.api.Failed()) { // it reports its failure and exits at once
		return initError(in.api.InitError(), p.cfg.Output.last(in.id))
	}
	exit := p.exitOf(in)
	return exitError(exit, in.api.ExtensionRefusal(exit.Extension), p.cfg.Output.last(in.id))
}

// awaitLastWords waits for the end of a runtime that has reported its failure:
// most exit at once, and all they printed has come then.
func (in *incarnation) awaitLastWords(ctx context.Context) {
	limit := time.NewTimer(lastWords)
	defer limit.Stop()
	select {
	case <-in.exited:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// awaitReturn waits until an adopted runtime comes back, for as long as its
// successor takes.
func (p *Pool) awaitReturn(ctx context.Context, in *incarnation) error {
	select {
	case <-in.api.Ready():
		return nil
	case <-in.fallen:
		return fmt.Errorf("adopted sandbox %s: %s: %w", in.id, p.exitOf(in), errdefs.ErrFailedPrecondition)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (p *Pool) created(in *incarnation, status sandbox.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in.cgroup, in.tmpPath, in.created = status.CgroupPath, status.TmpPath, true
	p.updateLocked(time.Now())
}

func (p *Pool) becameReady(in *incarnation) {
	if !p.markReady(in) {
		return // retired meanwhile
	}
	p.cfg.Log.Info("environment ready", "environment", string(in.assignment.Environment),
		"function", in.assignment.FunctionName, "sandbox", string(in.id))
}

func (p *Pool) markReady(in *incarnation) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in.phase != PhaseStarting {
		return false
	}
	now := time.Now()
	in.phase, in.readyAt = PhaseReady, now
	if e := p.environments[in.assignment.Environment]; !in.adopted {
		e.failures, e.code, e.reason = 0, "", ""
	}
	p.updateLocked(now)
	return true
}

// ended records why an incarnation ends; err is set when it never became ready.
func (p *Pool) ended(in *incarnation, err error) {
	log := p.cfg.Log.With("environment", string(in.assignment.Environment),
		"function", in.assignment.FunctionName, "sandbox", string(in.id))
	switch failures, unexpected := p.markEnded(in, err); {
	case !unexpected:
		log.Info("environment ends")
	case err == nil:
		exit := p.exitOf(in)
		log.Warn("environment ended by itself", "cause", exit.Type(), "exit", exit.String(),
			"extension", exit.Extension, "exit_code", exit.Code, "oom_killed", exit.OutOfMemory)
	default:
		log.Warn("environment could not be started", "failures", failures, "err", err)
	}
}

// markEnded decides when the environment may be started again.
func (p *Pool) markEnded(in *incarnation, err error) (failures int, unexpected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	unexpected = in.phase != PhaseEnding && !in.adopted
	in.phase = PhaseEnding
	defer p.updateLocked(now)
	if !unexpected {
		return 0, false
	}
	in.failed = true
	e := p.environments[in.assignment.Environment]
	if err == nil && now.Sub(in.readyAt) >= steady {
		e.attempts = 0
	}
	wait := min(firstBackoff<<min(e.attempts, 16), lastBackoff)
	e.attempts++
	e.retryAt = now.Add(wait/2 + mathrand.N(wait/2+1)) //nolint:gosec // jitter
	if err != nil {
		code, reason := failure(err)
		if hostTrouble(code) != hostTrouble(e.code) {
			e.failures = 0 // those were of another kind
		}
		e.failures++
		e.code, e.reason = code, reason
	}
	return e.failures, true
}

// dispose lets what runs finish, but for code that ran past its deadline, ends the sandbox and removes it, however often
// it takes.
func (p *Pool) dispose(ctx context.Context, in *incarnation) {
	settle, cancel := context.WithTimeoutCause(ctx, in.assignment.Timeout+time.Second, errNotSettled)
	defer cancel()
	if err := in.api.Settle(settle); err != nil && ctx.Err() == nil {
		p.cfg.Log.WarnContext(ctx, "environment is ended with invokes running", "environment", string(in.assignment.Environment), "err", err)
	}
	p.shutdown(ctx, in)
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		if ctx.Err() != nil {
			return // the next agent process removes it
		}
		err := p.remove(ctx, in)
		if err == nil {
			break
		}
		p.cfg.Log.WarnContext(ctx, "sandbox could not be removed", "sandbox", string(in.id), "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	in.api.Exited(runtimeapi.Exit{Code: -1})
	p.gone(in)
}

// overran ends an on-demand incarnation whose invocation ran beyond its
// deadline, as default Lambda does: the code that still runs would keep the only
// slot. The environment starts anew at once.
func (p *Pool) overran(in *incarnation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if in.phase == PhaseEnding {
		return
	}
	in.phase = PhaseEnding
	in.retire(errOverran)
	p.updateLocked(time.Now())
}

func (p *Pool) gone(in *incarnation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in.retire(errRetired)
	delete(p.sandboxes, in.id)
	e := p.environments[in.assignment.Environment]
	e.refused = e.refused.Plus(in.api.Refusals())
	if n := in.api.PerInvoke(); n > 0 {
		e.perInvoke = n
	}
	e.incarnations = slices.DeleteFunc(e.incarnations, func(i *incarnation) bool { return i == in })
	p.cfg.Output.forget(in.id)
	p.updateLocked(time.Now())
}
