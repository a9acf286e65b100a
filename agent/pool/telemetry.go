package pool

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
	"github.com/hearth-compute/hearth/sandbox"
)

// newTelemetry makes what tells extensions and the logs what happens in a sandbox
// whose output is followed.
func (p *Pool) newTelemetry(id sandbox.ID, a agent.Assignment) *telemetry.Hub {
	cfg := telemetry.Config{
		FunctionName: a.FunctionName, Version: a.Version, FunctionARN: a.FunctionARN, Runtime: a.Runtime, Memory: int64(a.Limits.Memory),
		JSON: a.Logging.Format == "JSON", SystemLevel: systemLevel(a.Logging.SystemLevel), OnDemand: a.OnDemand,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return p.cfg.Runtime.Dial(ctx, id, address)
		},
		Log: p.cfg.Log,
	}
	if f := p.cfg.Output.get(id); f != nil && f.stream != nil {
		cfg.Sink = f.platform
	}
	hub := telemetry.New(cfg)
	p.cfg.Output.subscribers(id, hub)
	return hub
}

// systemLevel is the level of a function's system logs.
func systemLevel(name string) slog.Level {
	switch name {
	case "DEBUG":
		return slog.LevelDebug
	case "WARN":
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// tellFailure tells extensions and the logs why an incarnation did not become
// ready, if that is the function's own fault.
func (in *incarnation) tellFailure(err error) {
	fault, ok := errors.AsType[*startError](err)
	if !ok {
		return
	}
	in.api.InitFailed(fault.errorType())
}

// errorType is AWS's name for the fault.
func (e *startError) errorType() string {
	if e.code == codeInitTimeout {
		return "Sandbox.Timedout"
	}
	kind, _, ok := strings.Cut(e.reason, ": ")
	if !ok || strings.ContainsAny(kind, " \n") {
		return "Runtime.Unknown"
	}
	return kind
}
