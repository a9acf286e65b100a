package runtimeapi

import (
	"context"

	"github.com/hearth-compute/hearth/agent"
)

// Logs takes what the function prints. All methods return at once.
type Logs interface {
	// Began and Ended say which invocation runs, where only one does at a time.
	Began(requestID string)
	Ended(requestID string)
	// Tail begins to gather the end of what is printed during an invocation.
	Tail(requestID string) Tail
}

// Tail is the end of what was printed. Either method ends it.
type Tail interface {
	// Finish waits a moment for what is on its way, until ctx ends at the latest.
	Finish(ctx context.Context) []byte
	Drop()
}

// Invoke runs one invocation and returns its outcome. ctx ends the wait for a
// /next only; once the event may have reached the runtime, Invoke returns when
// the runtime answers, its process exits or the deadline passes. Errors:
// ResourceExhausted as *[RefusedError], AlreadyExists (a running invocation has
// the id), FailedPrecondition (the deadline has passed), or the cause of ctx;
// after any of them the event was not handed to a runtime.
func (a *API) Invoke(ctx context.Context, inv agent.Invocation, payload []byte) (agent.Outcome, error) {
	if !inv.LogTail || a.cfg.Logs == nil {
		return a.run(ctx, inv, payload)
	}
	tail := a.cfg.Logs.Tail(inv.RequestID)
	out, err := a.run(ctx, inv, payload)
	switch {
	case err != nil:
		tail.Drop()
	case out.Stream != nil:
		out.Stream = &tailedStream{Stream: out.Stream, ctx: ctx, tail: tail}
	default:
		out.LogTail = tail.Finish(ctx)
	}
	return out, err
}

// tailedStream is a streamed answer whose end has a tail.
type tailedStream struct {
	agent.Stream

	ctx  context.Context //nolint:containedctx // that of the call which the stream is the answer to
	tail Tail
}

// End implements agent.Stream.
func (s *tailedStream) End() agent.Outcome {
	out := s.Stream.End()
	out.LogTail = s.tail.Finish(s.ctx)
	return out
}

// runs tells the logs that x runs, or that it does not any more, where one does
// at a time.
func (a *API) runs(x *invocation, now bool) {
	switch {
	case a.cfg.Logs == nil || a.cfg.Concurrency != 1:
	case now:
		a.cfg.Logs.Began(x.RequestID)
	default:
		a.cfg.Logs.Ended(x.RequestID)
	}
}
