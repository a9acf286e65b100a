//go:build node

package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/google/go-cmp/cmp"
)

// tapped is what an extension got in one environment.
type tapped struct {
	Tap                 string
	Sequences, Requests []string
	Events              []json.RawMessage
}

// telemetryEvent is one of them.
type telemetryEvent struct {
	Time   time.Time
	Type   string
	Record json.RawMessage
}

func (e telemetryEvent) fields(t *testing.T) (fields map[string]any) {
	t.Helper()
	if err := json.Unmarshal(e.Record, &fields); err != nil {
		t.Fatalf("%s: %s: %v", e.Type, e.Record, err)
	}
	return fields
}

func (x tapped) events(t *testing.T) (all []telemetryEvent) {
	t.Helper()
	for _, raw := range x.Events {
		var e telemetryEvent
		if err := json.Unmarshal(raw, &e); err != nil || e.Time.IsZero() {
			t.Fatalf("%s: %v", raw, err)
		}
		all = append(all, e)
	}
	return all
}

// taps reads what extensions said at their ends, in all logs on the instances.
func (s *stack) taps() (all []tapped) {
	s.t.Helper()
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "/logs/") {
			return nil
		}
		content, _ := os.ReadFile(path)
		for line := range strings.Lines(string(content)) {
			_, line, ok := strings.Cut(line, `{"tap":`)
			if !ok || !strings.HasPrefix(line, `"tap-`) {
				continue
			}
			var x tapped
			if err := json.NewDecoder(strings.NewReader(`{"tap":` + line)).Decode(&x); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
			all = append(all, x)
		}
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
	return all
}

// TestTelemetry subscribes extensions in real containers, with HTTP and TCP, and
// one that never answers beside them.
func TestTelemetry(t *testing.T) {
	t.Parallel()
	s := up(t)
	s.provider("subnet-a")
	build(t, "tap")
	tap := program(t, "", "./tap")
	var members []member
	for _, name := range []string{"http", "tcp", "silent"} {
		members = append(members, member{"extensions/tap-" + name, tap.content, 0o755})
	}
	layer := s.publishLayer("taps", members...)
	s.deployTapped(layer)
	want := map[string]string{}
	for range 20 {
		want[s.invokeTapped(`{}`, "")] = "success"
	}
	want[s.invokeTapped(`{"Fail":"no"}`, "Unhandled")] = "error"
	want[s.invokeTapped(`{"SleepMS":3000}`, "Unhandled")] = "timeout"
	// The function's log has what AWS writes at the level INFO.
	for id := range want {
		s.eventually(10*time.Second, "the report of "+id, func() error { return s.printed(`"type":"platform.report"`, `"requestId":"`+id+`"`) })
	}
	if err := s.printed(`"type":"platform.start"`); err == nil {
		t.Error("platform.start is in the log at the level INFO")
	}
	s.eventually(30*time.Second, "the loss of what the silent extension missed", func() error {
		return s.printed(`"type":"platform.logsDropped"`, "could not send events")
	})
	s.remove(t, functionName)
	var got []tapped
	s.eventually(30*time.Second, "what extensions got", func() error {
		const environments = 3 // the least a function has
		if got = s.taps(); len(got) < 3*environments {
			return fmt.Errorf("%d have said it", len(got))
		}
		return nil
	})
	for _, x := range got {
		switch events := x.events(t); x.Tap {
		case "tap-silent":
			if len(events) > 0 {
				t.Errorf("the silent one got %d", len(events))
			}
		case "tap-http":
			checkPosts(t, x)
			checkInit(t, events)
			checkInvocations(t, events, want)
			checkSame(t, x, got)
		}
	}
	if len(want) > 0 {
		t.Errorf("nobody was told of %v", want)
	}
}

// deployTapped publishes the function that prints.
func (s *stack) deployTapped(layer string) {
	s.t.Helper()
	_, err := s.lambda.CreateFunction(s.t.Context(), s.input(func(in *lambda.CreateFunctionInput) {
		in.Layers, in.Timeout = []string{layer}, aws.Int32(2)
		in.Code = &types.FunctionCode{ZipFile: zippedProgram(s.t, "tap")}
		in.LoggingConfig = &types.LoggingConfig{LogFormat: types.LogFormatJson}
	}))
	if err != nil {
		s.t.Fatal(err)
	}
	if f := s.published(s.t, functionName, settled); f.State != types.StateActive {
		s.t.Fatalf("got %s, %s: %s", f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
}

// invokeTapped runs one invocation and returns its request id.
func (s *stack) invokeTapped(event, functionError string) string {
	s.t.Helper()
	began := time.Now()
	out, err := s.lambda.Invoke(s.t.Context(), &lambda.InvokeInput{FunctionName: aws.String(functionName), Payload: []byte(event)})
	if err != nil || aws.ToString(out.FunctionError) != functionError {
		s.t.Fatalf("%s: got %v %s", event, err, payloadOf(out))
	}
	if took := time.Since(began); took > 10*time.Second {
		s.t.Errorf("%s took %v", event, took)
	}
	id, ok := awsmiddleware.GetRequestIDMetadata(out.ResultMetadata)
	if !ok {
		s.t.Fatalf("%s: the answer has no request id", event)
	}
	return id
}

// checkPosts checks how batches came.
func checkPosts(t *testing.T, x tapped) {
	t.Helper()
	for _, r := range x.Requests {
		if r != "POST sandbox.localdomain:4300 /tap?x=1 application/json" {
			t.Errorf("got %s", r)
		}
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(x.Sequences)))
	if len(distinct) != len(x.Sequences) || slices.Contains(distinct, "") || len(distinct) < 2 {
		t.Errorf("the sequence ids are %q", x.Sequences)
	}
}

// checkInit checks what is told of the initialisation: order and shapes.
func checkInit(t *testing.T, events []telemetryEvent) {
	t.Helper()
	shapes := map[string]string{
		"platform.initStart":       "functionName functionVersion initializationType instanceId instanceMaxMemory phase runtimeVersion runtimeVersionArn",
		"platform.extension":       "events name state",
		"platform.initRuntimeDone": "initializationType phase status",
		"platform.initReport":      "initializationType metrics phase status",
	}
	var order []string
	for _, e := range events {
		if e.Type == "platform.telemetrySubscription" { // in any order with what extensions print
			keys(t, e, "name state types")
		}
		if shape := shapes[e.Type]; shape != "" {
			keys(t, e, shape)
			order = append(order, strings.TrimPrefix(e.Type, "platform."))
		}
	}
	want := []string{"initStart", "initRuntimeDone", "extension", "extension", "extension", "initReport"}
	if diff := cmp.Diff(want, order); diff != "" || events[0].Type != "platform.initStart" {
		t.Fatalf("%s first: %s", events[0].Type, diff)
	}
	if f := events[0].fields(t); f["initializationType"] != "lambda-managed-instances" || f["instanceMaxMemory"] != 512.0*1024*1024 || f["phase"] != "init" {
		t.Errorf("got %v", f)
	}
}

// keys checks which members a record has.
func keys(t *testing.T, e telemetryEvent, want string) {
	t.Helper()
	if got := strings.Join(slices.Sorted(maps.Keys(e.fields(t))), " "); got != want {
		t.Errorf("%s has %s", e.Type, got)
	}
}

// checkInvocations checks what is told of invocations, and removes those that are
// told of properly from want.
func checkInvocations(t *testing.T, events []telemetryEvent, want map[string]string) {
	t.Helper()
	seen, printed := map[string]string{}, map[string]int{}
	for _, e := range events {
		switch e.Type {
		case "platform.start":
			keys(t, e, "functionArn requestId version")
			seen[fmt.Sprint(e.fields(t)["requestId"])] += "start "
		case "function":
			printed[printedBy(t, e)]++
		case "extension":
			printed["an extension"]++
		case "platform.report":
			id := fmt.Sprint(e.fields(t)["requestId"])
			checkReport(t, e, want[id])
			seen[id] += "report"
		case "platform.runtimeDone", "platform.logsDropped":
			t.Errorf("got %s %s", e.Type, e.Record)
		}
	}
	for id, order := range seen {
		if order != "start report" || printed[id] != 2 {
			t.Errorf("%s: %s, %d lines", id, order, printed[id])
		}
		delete(want, id)
	}
	if printed["an extension"] < 3 {
		t.Errorf("%d lines of extensions", printed["an extension"])
	}
}

// printedBy is the request whose line an event is: text, or an object.
func printedBy(t *testing.T, e telemetryEvent) string {
	t.Helper()
	var text string
	if json.Unmarshal(e.Record, &text) == nil {
		id, _ := strings.CutPrefix(text, "text ")
		return id
	}
	return fmt.Sprint(e.fields(t)["requestId"])
}

func checkReport(t *testing.T, e telemetryEvent, status string) {
	t.Helper()
	f := e.fields(t)
	shapes := map[string]string{
		"success": "metrics requestId spans status", "error": "errorType metrics requestId spans status", "timeout": "errorType metrics requestId status",
	}
	keys(t, e, shapes[status])
	if f["status"] != status || status == "timeout" && f["errorType"] != "Sandbox.Timedout" {
		t.Errorf("got %s", e.Record)
	}
	metrics, _ := f["metrics"].(map[string]any)
	if ms, _ := metrics["durationMs"].(float64); len(metrics) != 1 || ms <= 0 || status == "timeout" && (ms < 1990 || ms > 4000) {
		t.Errorf("got %s", e.Record)
	}
	if spans, _ := f["spans"].([]any); status == "success" && len(spans) != 2 {
		t.Errorf("got %s", e.Record)
	}
}

// checkSame checks that TCP brought the very same events, but for those it does
// not have.
func checkSame(t *testing.T, x tapped, all []tapped) {
	t.Helper()
	var want []string
	for i, e := range x.events(t) {
		if e.Type != "extension" {
			want = append(want, string(x.Events[i]))
		}
	}
	i := slices.IndexFunc(all, func(o tapped) bool { return o.Tap == "tap-tcp" && string(o.Events[0]) == want[0] })
	if i < 0 {
		t.Fatal("nothing came by TCP")
	}
	var got []string
	for _, e := range all[i].Events {
		got = append(got, string(e))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("by TCP: %s", diff)
	}
}
