package runtimeapi

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
)

// MaxExtensions is how many extensions an environment may have, those inside the
// runtime's process included.
const MaxExtensions = 10

// maxExtensionName is longer than any file name.
const maxExtensionName = 256

// ShutdownReason is why an environment ends, as extensions are told.
type ShutdownReason string

// The reasons AWS gives on managed instances.
const (
	Spindown ShutdownReason = "spindown"
	Failure  ShutdownReason = "failure"
)

// Function is what extensions are told about the function they accompany.
type Function struct{ Name, Version, Handler, AccountID string }

// The states of an extension, as error messages name them.
const (
	extensionStarted    = "Started"
	extensionRegistered = "Registered"
	extensionReady      = "Ready"
	extensionRunning    = "Running"
	extensionInitError  = "InitError"
	extensionExitError  = "ExitError"
)

// extension is one extension. The mutex of extensions guards what changes.
type extension struct {
	name     string
	id       string // given when it registers
	external bool   // a process of its own

	state string
	// wantsShutdown says that it asked for the event, told that it was given it.
	wantsShutdown, told bool
	// settled says that it has asked for an event once: it is ready.
	settled bool
	// refusal is why it could not register, if it could not; errorType the type of
	// the error it reported, if it did.
	refusal, errorType string
}

// extensions are those of one environment. The zero value has none.
type extensions struct {
	mu     sync.Mutex // guards the fields below
	byName map[string]*extension
	// closed says that the runtime is ready: nobody registers any more.
	closed bool
	// fault is the error type an extension gave for its exit.
	fault string
	event shutdownEvent

	// registered is closed when all external extensions have registered, shutdown
	// when event is to be delivered.
	registered, shutdown chan struct{}
}

// shutdownEvent is the one event there is.
type shutdownEvent struct {
	Type     string         `json:"eventType"`
	Deadline int64          `json:"deadlineMs"`
	Reason   ShutdownReason `json:"shutdownReason"`
}

func newExtensions() extensions {
	return extensions{registered: make(chan struct{}), shutdown: make(chan struct{})}
}

// Expect names the external extensions, at most [MaxExtensions], before their
// processes are started. Only the first call counts.
func (a *API) Expect(names []string) {
	e := &a.extensions
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byName != nil {
		return
	}
	e.byName = make(map[string]*extension, len(names))
	for _, name := range names {
		e.byName[name] = &extension{name: name, external: true, state: extensionStarted}
	}
	if len(e.byName) == 0 {
		close(e.registered)
	}
}

// Registered is closed once all expected extensions have registered.
func (a *API) Registered() <-chan struct{} { return a.extensions.registered }

// HasExtensions reports whether any extension, of whatever kind, has registered.
func (a *API) HasExtensions() bool {
	e := &a.extensions
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.byName {
		if x.id != "" {
			return true
		}
	}
	return false
}

// Missing says what an environment that is not ready waits for.
func (a *API) Missing() string {
	e := &a.extensions
	e.mu.Lock()
	defer e.mu.Unlock()
	var unregistered, unready []string
	for _, name := range slices.Sorted(maps.Keys(e.byName)) {
		switch x := e.byName[name]; {
		case x.id == "":
			unregistered = append(unregistered, name)
		case !x.settled:
			unready = append(unready, name)
		}
	}
	switch {
	case len(unregistered) > 0:
		return "extension " + strings.Join(unregistered, ", ") + " did not register"
	case !e.closed:
		return "runtime did not ask for its first invocation"
	}
	return "extension " + strings.Join(unready, ", ") + " did not ask for its first event"
}

// ExtensionFault is the error type the first extension gave that announced its
// exit; empty if none did.
func (a *API) ExtensionFault() string {
	e := &a.extensions
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fault
}

// ExtensionRefusal is why an extension could not register; empty if it could.
func (a *API) ExtensionRefusal(name string) string {
	e := &a.extensions
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.byName[name]; x != nil && x.id == "" {
		return x.refusal
	}
	return ""
}

// Shutdown gives the SHUTDOWN event to the external extensions that asked for it,
// and returns the names of those and of the others. Only the first event counts.
func (a *API) Shutdown(reason ShutdownReason, deadline time.Time) (told, others []string) {
	e := &a.extensions
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.event.Type == "" {
		e.event = shutdownEvent{Type: "SHUTDOWN", Deadline: deadline.UnixMilli(), Reason: reason}
		close(e.shutdown)
	}
	for _, name := range slices.Sorted(maps.Keys(e.byName)) {
		switch x := e.byName[name]; {
		case !x.external:
		case x.wantsShutdown:
			told = append(told, name)
		default:
			others = append(others, name)
		}
	}
	return told, others
}

// Flush delivers what extensions have not got of their telemetry yet, until ctx
// ends, for a second at most.
func (a *API) Flush(ctx context.Context) { a.cfg.Telemetry.Flush(ctx) }

// becomeReady says that the runtime asked for an invocation: no extension may
// register any more, and the environment is ready once all of them are.
func (a *API) becomeReady() {
	if a.isReady.Load() {
		return
	}
	a.extensions.mu.Lock()
	first := !a.extensions.closed
	a.extensions.closed = true
	a.extensions.mu.Unlock()
	if first {
		a.cfg.Telemetry.InitRuntimeDone(telemetry.Success, "")
	}
	a.checkReady()
}

// checkReady makes the environment ready if its runtime and all its extensions
// are.
func (a *API) checkReady() {
	if !a.extensions.ready() {
		return
	}
	if a.setReady() {
		a.initialised(telemetry.Success, "")
		close(a.ready)
	}
}

func (a *API) setReady() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.hasFailed && a.isReady.CompareAndSwap(false, true)
}

func (e *extensions) ready() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.byName {
		if !x.settled {
			return false
		}
	}
	return e.closed
}

// isClosed reports whether the runtime has asked for an invocation.
func (e *extensions) isClosed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

// register enters an extension. An error is for the client.
func (e *extensions) register(name string, events []string) (id string, err *extensionError) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.byName[name]
	switch {
	case x == nil || !x.external:
		x, err = e.newInternalLocked(name, x, events)
	case slices.ContainsFunc(events, notShutdown):
		event := events[slices.IndexFunc(events, notShutdown)]
		x.refusal = fmt.Sprintf("it asked for the event %.40q, and managed instances have SHUTDOWN only", event)
		err = &extensionError{"Extension.InvalidEventType", fmt.Sprintf("%.40s: ErrorInvalidEventType", event)}
	case x.state != extensionStarted:
		err = x.notAllowed(extensionRegistered, x.name)
	}
	if err != nil {
		return "", err
	}
	x.id, x.state, x.wantsShutdown = uuid.NewString(), extensionRegistered, len(events) > 0
	if x.external && e.allRegisteredLocked() {
		close(e.registered)
	}
	return x.id, nil
}

func notShutdown(event string) bool { return event != "SHUTDOWN" }

func (e *extensions) allRegisteredLocked() bool {
	for _, x := range e.byName {
		if x.external && x.id == "" {
			return false
		}
	}
	return true
}

// newInternalLocked makes the entry of an extension inside the runtime.
func (e *extensions) newInternalLocked(name string, before *extension, events []string) (*extension, *extensionError) {
	switch {
	case len(events) > 0:
		return nil, &extensionError{"Extension.InvalidEventType", "No events allowed for internal extensions"}
	case e.closed:
		return nil, &extensionError{"Extension.RegistrationClosed", "Extension registration closed already"}
	case before != nil:
		return nil, &extensionError{"Extension.InvalidExtensionState", "Extension with this name already registered"}
	case len(e.byName) >= MaxExtensions:
		return nil, &extensionError{"Extension.TooManyExtensions", fmt.Sprintf("Extension limit (%d) reached", MaxExtensions)}
	}
	if e.byName == nil {
		e.byName = map[string]*extension{}
	}
	x := &extension{name: name}
	e.byName[name] = x
	return x, nil
}

// poll makes an extension ready. Only one poll may be pending.
func (e *extensions) poll(x *extension) *extensionError {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x.state != extensionRegistered && x.state != extensionRunning {
		return x.notAllowed(extensionReady, x.id)
	}
	x.state, x.settled = extensionReady, true
	return nil
}

// polled ends a poll and reports whether the event is to be written to it.
func (e *extensions) polled(x *extension, event bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x.state == extensionReady {
		x.state = extensionRunning
	}
	first := event && !x.told
	x.told = x.told || event
	return first
}

// events is closed when there is an event for x; nil, and never closed, if there
// will be none.
func (e *extensions) events(x *extension) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !x.wantsShutdown || x.told {
		return nil
	}
	return e.shutdown
}

// fail moves an extension to one of its error states.
func (e *extensions) fail(x *extension, state, errorType string) *extensionError {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case x.state == state:
	case x.state == extensionRegistered, state == extensionExitError && (x.state == extensionReady || x.state == extensionRunning):
		x.state = state
	default:
		return x.notAllowed(state, x.id)
	}
	x.errorType = cmp.Or(x.errorType, errorType)
	if state == extensionExitError {
		e.fault = cmp.Or(e.fault, errorType)
	}
	return nil
}

func (x *extension) notAllowed(to, whom string) *extensionError {
	return &extensionError{"Extension.InvalidExtensionState", fmt.Sprintf(
		"State transition from %s to %s failed for extension %s. Error: state transition is not allowed", x.state, to, whom)}
}

// find returns the extension with an identifier; nil if there is none.
func (e *extensions) find(id string) *extension {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.byName {
		if x.id == id {
			return x
		}
	}
	return nil
}
