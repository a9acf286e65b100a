package runtimeapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

const (
	pathExtension = "/2020-01-01/extension/"

	headerExtensionName   = "Lambda-Extension-Name"
	headerIdentifier      = "Lambda-Extension-Identifier"
	headerEvent           = "Lambda-Extension-Event-Identifier"
	headerFeatures        = "Lambda-Extension-Accept-Feature"
	headerExtensionError  = "Lambda-Extension-Function-Error-Type"
	maxRegistration       = 64 << 10
	extensionInitDefault  = "Extension.InitError"
	extensionExitDefault  = "Extension.ExitError"
	truncatedHTTPRequest  = "TruncatedHTTPRequest"
	truncatedHTTPResponse = "HTTP request detected as truncated"
)

// extensionError is an answer of the Extensions API, always with status 403.
type extensionError struct{ kind, message string }

func (e *extensionError) write(w http.ResponseWriter) {
	fail(w, http.StatusForbidden, e.kind, e.message)
}

// serveExtension answers a request of the Extensions API and reports whether it
// is one.
func (a *API) serveExtension(w http.ResponseWriter, r *http.Request) bool {
	path, ok := strings.CutPrefix(r.URL.Path, pathExtension)
	if !ok {
		return false
	}
	switch path {
	case "register":
		only(http.MethodPost, a.registerExtension, w, r)
	case "event/next":
		only(http.MethodGet, a.nextEvent, w, r)
	case "init/error":
		only(http.MethodPost, func(w http.ResponseWriter, r *http.Request) {
			a.extensionFailed(extensionInitError, w, r)
		}, w, r)
	case "exit/error":
		only(http.MethodPost, func(w http.ResponseWriter, r *http.Request) {
			a.extensionFailed(extensionExitError, w, r)
		}, w, r)
	default:
		return false
	}
	return true
}

// identify returns the extension that makes a request. One that nobody knows is
// answered with the message unknown.
func (a *API) identify(r *http.Request, unknown string) (*extension, *extensionError) {
	given := r.Header.Get(headerIdentifier)
	if given == "" {
		return nil, &extensionError{"Extension.MissingExtensionIdentifier", "Missing " + headerIdentifier + " header"}
	}
	id, err := uuid.Parse(given)
	if err != nil {
		return nil, &extensionError{"Extension.InvalidExtensionIdentifier", "Invalid " + headerIdentifier}
	}
	x := a.extensions.find(id.String())
	if x == nil {
		return nil, &extensionError{"Extension.UnknownExtensionIdentifier", unknown}
	}
	return x, nil
}

// registerExtension enters an extension.
func (a *API) registerExtension(w http.ResponseWriter, r *http.Request) {
	name := r.Header.Get(headerExtensionName)
	if name == "" {
		fail(w, http.StatusForbidden, "Extension.InvalidExtensionName", "Empty extension name")
		return
	}
	if len(name) > maxExtensionName {
		fail(w, http.StatusForbidden, "Extension.InvalidExtensionName", "Extension name is too long")
		return
	}
	body, err := read(r, maxRegistration)
	switch {
	case errors.Is(err, errTooLarge):
		tooLarge(w, maxRegistration)
		return
	case err != nil:
		fail(w, http.StatusBadRequest, truncatedHTTPRequest, truncatedHTTPResponse)
		return
	}
	var wish struct {
		Events            []string `json:"events"`
		ConfigurationKeys []string `json:"configurationKeys"`
	}
	if err := json.Unmarshal(body, &wish); err != nil {
		fail(w, http.StatusForbidden, "InvalidRequestFormat", err.Error())
		return
	}
	if len(wish.ConfigurationKeys) > 0 {
		fail(w, http.StatusForbidden, "InvalidRequestFormat", "configurationKeys are deprecated; use environment variables instead")
		return
	}
	id, refusal := a.extensions.register(name, wish.Events)
	if refusal != nil {
		refusal.write(w)
		return
	}
	a.answerRegistration(id, w, r)
}

func (a *API) answerRegistration(id string, w http.ResponseWriter, r *http.Request) {
	answer := struct {
		AccountID string `json:"accountId,omitempty"`
		Name      string `json:"functionName"`
		Version   string `json:"functionVersion"`
		Handler   string `json:"handler"`
	}{Name: a.cfg.Function.Name, Version: a.cfg.Function.Version, Handler: a.cfg.Function.Handler}
	for feature := range strings.SplitSeq(r.Header.Get(headerFeatures), ",") {
		if strings.TrimSpace(feature) == "accountId" {
			answer.AccountID = a.cfg.Function.AccountID
		}
	}
	w.Header().Set(headerIdentifier, id)
	w.Header().Set("Content-Type", contentTypeJSON)
	_ = json.NewEncoder(w).Encode(answer)
}

// nextEvent holds the request until there is an event.
func (a *API) nextEvent(w http.ResponseWriter, r *http.Request) {
	x, err := a.identify(r, "Unknown extension "+r.Header.Get(headerIdentifier))
	if err == nil {
		err = a.extensions.poll(x)
	}
	if err != nil {
		err.write(w)
		return
	}
	a.checkReady()
	select {
	case <-r.Context().Done():
		a.extensions.polled(x, false)
		return
	case <-a.extensions.events(x):
	}
	if !a.extensions.polled(x, true) {
		return
	}
	w.Header().Set("Content-Type", contentTypeJSON)
	w.Header().Set(headerEvent, uuid.NewString())
	_ = json.NewEncoder(w).Encode(a.extensions.event) // set before the channel was closed
}

// extensionFailed takes the report of an extension that gives up.
func (a *API) extensionFailed(state string, w http.ResponseWriter, r *http.Request) {
	x, refusal := a.identify(r, "Unknown "+headerIdentifier)
	if refusal != nil {
		refusal.write(w)
		return
	}
	given := r.Header.Get(headerExtensionError)
	if given == "" {
		fail(w, http.StatusForbidden, "Extension.MissingHeader", headerExtensionError+" not found")
		return
	}
	body, err := read(r, maxRegistration)
	if errors.Is(err, errTooLarge) {
		tooLarge(w, maxRegistration)
		return
	}
	byDefault := extensionInitDefault
	if state == extensionExitError {
		byDefault = extensionExitDefault
	}
	errorType := knownExtensionType(given, byDefault)
	if refusal := a.extensions.fail(x, state, errorType); refusal != nil {
		refusal.write(w)
		return
	}
	if state == extensionInitError {
		said := parseInitError("", body)
		message := "extension " + x.name
		if said.Message != "" {
			message += ": " + said.Message
		}
		a.recordInitError(InitError{Type: errorType, Message: message})
	}
	accepted(w)
}

// knownExtensionType keeps an error type only if it has the form AWS accepts.
func knownExtensionType(given, otherwise string) string {
	name, ok := strings.CutPrefix(given, "Extension.")
	if !ok || len(name) < 2 || len(name) > 100 || name[0] < 'A' || name[0] > 'Z' || strings.ContainsFunc(name, notLetter) {
		return otherwise
	}
	return given
}
