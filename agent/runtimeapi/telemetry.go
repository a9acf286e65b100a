package runtimeapi

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
)

const (
	pathTelemetry   = "/2022-07-01/telemetry"
	maxSubscription = 64 << 10

	timedOutType = "Sandbox.Timedout"
)

// serveTelemetry answers a request of the Telemetry API and reports whether it is
// one. Of the Logs API, which preceded it, managed instances have nothing.
func (a *API) serveTelemetry(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != pathTelemetry && r.URL.Path != pathTelemetry+"/" {
		return false
	}
	only(http.MethodPut, a.subscribe, w, r)
	return true
}

// subscribe lets an extension subscribe to the telemetry of its environment.
func (a *API) subscribe(w http.ResponseWriter, r *http.Request) {
	x, refusal := a.identify(r, "Unknown extension "+r.Header.Get(headerIdentifier))
	if refusal != nil {
		refusal.write(w)
		return
	}
	if a.cfg.Telemetry == nil {
		fail(w, http.StatusAccepted, "Telemetry.NotSupported", "Telemetry API is not supported")
		return
	}
	body, err := read(r, maxSubscription)
	switch {
	case errors.Is(err, errTooLarge):
		tooLarge(w, maxSubscription)
		return
	case err != nil:
		fail(w, http.StatusBadRequest, truncatedHTTPRequest, truncatedHTTPResponse)
		return
	}
	refused, ok := errors.AsType[*telemetry.RefusedError](a.cfg.Telemetry.Subscribe(r.Context(), x.name, body))
	switch {
	case !ok:
		_, _ = w.Write([]byte(`"OK"`))
	case errdefs.IsFailedPrecondition(refused):
		fail(w, http.StatusForbidden, refused.Type, refused.Message)
	default:
		fail(w, http.StatusBadRequest, refused.Type, refused.Message)
	}
}

// InitFailed tells subscribers and the function's log that the environment will
// not become ready, and why.
func (a *API) InitFailed(errorType string) {
	status := telemetry.Error
	if errorType == timedOutType {
		status = telemetry.Timeout
	}
	if status != telemetry.Timeout && !a.extensions.isClosed() {
		a.cfg.Telemetry.InitRuntimeDone(status, errorType)
	}
	a.initialised(status, errorType)
}

// initialised tells what became of the initialisation, extension by extension.
func (a *API) initialised(status telemetry.Status, errorType string) {
	if a.cfg.Telemetry == nil {
		return
	}
	for _, x := range a.extensions.list() {
		events := []string{}
		if x.wantsShutdown {
			events = append(events, "SHUTDOWN")
		}
		a.cfg.Telemetry.ExtensionState(x.name, x.state, events, x.errorType)
	}
	a.cfg.Telemetry.InitReport(status, errorType)
	a.cfg.Telemetry.Close()
}

// list returns copies of all extensions, in order of their names.
func (e *extensions) list() []extension {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]extension, 0, len(e.byName))
	for _, name := range slices.Sorted(maps.Keys(e.byName)) {
		all = append(all, *e.byName[name])
	}
	return all
}

// tracing is the X-Ray context of an invocation.
func tracing(x *invocation) telemetry.Tracing { return telemetry.Tracing{Header: x.TraceID} }

// began tells that x is about to be handed to the runtime.
func (a *API) began(x *invocation) {
	if !x.told {
		x.told = true
		a.cfg.Telemetry.Start(x.RequestID, tracing(x))
	}
}

// ended tells how x, whose outcome is complete, ended.
func (a *API) ended(x *invocation, out agent.Outcome) {
	if a.cfg.Telemetry == nil {
		return
	}
	r := telemetry.Report{
		RequestID: x.RequestID, Status: status(out), ErrorType: out.ErrorType, Tracing: tracing(x), ProducedBytes: int64(len(out.Payload)),
	}
	if r.Status == telemetry.Timeout { // the runtime may be answering still
		r.Done = time.Now()
		r.Handed = r.Done.Add(-out.Duration)
	} else {
		r.Handed, r.Answered, r.Done = x.handed, x.answered, x.handed.Add(out.Duration)
	}
	a.cfg.Telemetry.Report(r)
}

// status is how an invocation ended, as AWS counts it: what the function or its
// runtime is to blame for is an error.
func status(out agent.Outcome) telemetry.Status {
	switch {
	case out.FunctionError == "":
		return telemetry.Success
	case out.ErrorType == timedOutType:
		return telemetry.Timeout
	case out.ErrorType == "Sandbox.Failure":
		return telemetry.Failure
	}
	return telemetry.Error
}
