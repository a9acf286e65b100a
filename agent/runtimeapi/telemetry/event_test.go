package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent/runtimeapi/telemetry"
)

const trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"

// config is that of a function with everything.
func config() telemetry.Config {
	return telemetry.Config{
		JSON: true, SystemLevel: slog.LevelDebug,
		FunctionName: "f", Version: "7", FunctionARN: "arn:aws:lambda:eu-west-1:123456789012:function:f:7", Runtime: "provided.al2023",
		Memory: 512 << 20,
	}
}

// happen reports one of each, starting at midnight of 2000-01-01.
func happen(h *telemetry.Hub) {
	h.InitStart("2000/01/01/f[7]e-1")
	time.Sleep(1500 * time.Microsecond)
	h.InitRuntimeDone(telemetry.Success, "")
	h.ExtensionState("x", "Ready", []string{"SHUTDOWN"}, "")
	h.ExtensionState("y", "InitError", nil, "Extension.NoKey")
	h.InitReport(telemetry.Success, "")
	h.Start("r1", telemetry.Tracing{Header: trace})
	at := time.Now()
	h.Report(telemetry.Report{
		RequestID: "r1", Status: telemetry.Success, Tracing: telemetry.Tracing{Header: trace, SpanID: "5"},
		Handed: at, Answered: at.Add(20 * time.Millisecond), Done: at.Add(20*time.Millisecond + 5*time.Microsecond), ProducedBytes: 3,
	})
	h.Start("r2", telemetry.Tracing{Header: strings.Replace(trace, "Sampled=1", "Sampled=0", 1)})
	h.Report(telemetry.Report{
		RequestID: "r2", Status: telemetry.Timeout, ErrorType: "Sandbox.Timedout", Handed: at, Done: at.Add(3 * time.Second),
	})
}

func TestEventsHaveAWSShapes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, config())
		happen(w.hub)
		const tracing = `"tracing":{"type":"X-Amzn-Trace-Id","value":"` + trace + `"}`
		want := []string{
			`platform.initStart  INFO {"time":"2000-01-01T00:00:00.000Z","type":"platform.initStart","record":{"initializationType":"lambda-managed-instances",` +
				`"runtimeVersion":"provided.al2023","runtimeVersionArn":"","functionName":"f","functionVersion":"7","instanceId":"2000/01/01/f[7]e-1",` +
				`"instanceMaxMemory":536870912,"phase":"init"}}`,
			`platform.initRuntimeDone  DEBUG {"time":"2000-01-01T00:00:00.001Z","type":"platform.initRuntimeDone","record":` +
				`{"initializationType":"lambda-managed-instances","status":"success","phase":"init"}}`,
			`platform.extension  INFO {"time":"2000-01-01T00:00:00.001Z","type":"platform.extension","record":{"name":"x","state":"Ready","events":["SHUTDOWN"]}}`,
			`platform.extension  WARN {"time":"2000-01-01T00:00:00.001Z","type":"platform.extension","record":` +
				`{"name":"y","state":"InitError","events":[],"errorType":"Extension.NoKey"}}`,
			`platform.initReport  INFO {"time":"2000-01-01T00:00:00.001Z","type":"platform.initReport","record":` +
				`{"initializationType":"lambda-managed-instances","metrics":{"durationMs":1.5},"phase":"init","status":"success"}}`,
			`platform.start r1 DEBUG {"time":"2000-01-01T00:00:00.001Z","type":"platform.start","record":` +
				`{"requestId":"r1","version":"7","functionArn":"arn:aws:lambda:eu-west-1:123456789012:function:f:7",` + tracing + `}}`,
			`platform.report r1 INFO {"time":"2000-01-01T00:00:00.001Z","type":"platform.report","record":` +
				`{"requestId":"r1","status":"success","metrics":{"durationMs":20.005},` + strings.Replace(tracing, "{", `{"spanId":"5",`, 1) +
				`,"spans":[{"name":"responseLatency","start":"2000-01-01T00:00:00.001Z","durationMs":20},` +
				`{"name":"responseDuration","start":"2000-01-01T00:00:00.021Z","durationMs":0.005}]}}`,
			`platform.start r2 DEBUG {"time":"2000-01-01T00:00:00.001Z","type":"platform.start","record":` +
				`{"requestId":"r2","version":"7","functionArn":"arn:aws:lambda:eu-west-1:123456789012:function:f:7"}}`,
			`platform.report r2 WARN {"time":"2000-01-01T00:00:00.001Z","type":"platform.report","record":` +
				`{"requestId":"r2","status":"timeout","metrics":{"durationMs":3000.000},"errorType":"Sandbox.Timedout"}}`,
		}
		if diff := cmp.Diff(want, w.logged()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAnOnDemandFunctionFindsTheEventsOfDefaultLambda(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.OnDemand = true
		w := newWorld(t, cfg)
		happen(w.hub)
		got := w.logged()
		if want := `platform.runtimeDone r1 DEBUG {"time":"2000-01-01T00:00:00.001Z","type":"platform.runtimeDone","record":` +
			`{"requestId":"r1","status":"success","metrics":{"producedBytes":3,"durationMs":20.005},"tracing"`; !strings.HasPrefix(got[6], want) {
			t.Errorf("got %s", got[6])
		}
		if !strings.Contains(got[0], `"initializationType":"on-demand"`) || !strings.HasPrefix(got[7], "platform.report r1 ") {
			t.Errorf("got %q", got)
		}
	})
}

func TestInPlainTextTheLogHasAWSLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.JSON, cfg.SystemLevel = false, slog.LevelError // which means nothing here
		w := newWorld(t, cfg)
		happen(w.hub)
		w.hub.InitReport(telemetry.Success, "") // once is enough
		w.hub.InitStart("s")
		w.hub.InitReport(telemetry.Error, "Runtime.ExitError")
		want := []string{
			"platform.initStart  INFO INIT_START Runtime Version: provided.al2023\tRuntime Version ARN: ",
			"platform.extension  INFO EXTENSION\tName: x\tState: Ready\tEvents: [SHUTDOWN]",
			"platform.extension  WARN EXTENSION\tName: y\tState: InitError\tEvents: []\tError Type: Extension.NoKey",
			"platform.start r1 DEBUG START RequestId: r1 Version: 7",
			"platform.report r1 INFO END RequestId: r1\nREPORT RequestId: r1\tDuration: 20.00 ms",
			"platform.start r2 DEBUG START RequestId: r2 Version: 7",
			"platform.report r2 WARN END RequestId: r2\nREPORT RequestId: r2\tDuration: 3000.00 ms\tStatus: timeout\tError Type: Sandbox.Timedout",
			"platform.initStart  INFO INIT_START Runtime Version: provided.al2023\tRuntime Version ARN: ",
			"platform.initReport  WARN INIT_REPORT Init Duration: 0.00 ms\tPhase: init\tStatus: error\tError Type: Runtime.ExitError",
		}
		if diff := cmp.Diff(want, w.logged()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTheLogTakesWhatItsSystemLevelSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for level, want := range map[slog.Level]int{slog.LevelInfo: 6, slog.LevelWarn: 2} {
			cfg := config()
			cfg.SystemLevel = level
			w := newWorld(t, cfg)
			happen(w.hub)
			if got := w.logged(); len(got) != want {
				t.Errorf("%s: got %q", level, got)
			}
		}
	})
}

func TestLinesAreObjectsOrText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		json       bool
		line, want string
	}{
		{false, "hello", `"hello"`},
		{false, `{"a":1}`, `"{\"a\":1}"`},
		{true, "hello", `"hello"`},
		{true, ` {"a":1}`, ` {"a":1}`},
		{true, `{"a":1} and more`, `"{\"a\":1} and more"`},
		{true, `{"a"`, `"{\"a\""`},
		{true, `[1]`, `"[1]"`},
		{true, ``, `""`},
		{false, "tab\tquote\"back\\slash\x01\r bad\xff\xe2\x82 euro€ line\u2028", `"tab\tquote\"back\\slash\u0001\u000d bad` + "\ufffd\ufffd\ufffd euro€ line\u2028\""},
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg := config()
			cfg.JSON = c.json
			w := newWorld(t, cfg)
			r := w.receive(t, 81, nil)
			w.subscribe(t, "x", 81, `"function","extension"`, "")
			w.hub.Function([]byte(c.line))
			w.hub.Extension([]byte(c.line))
			w.hub.Flush(t.Context())
			got := r.events()
			if types(got) != "function extension" {
				t.Fatalf("%q: got %+v", c.line, r.got())
			}
			for _, e := range got {
				if !bytes.Equal(bytes.TrimSpace(e.Record), []byte(strings.TrimSpace(c.want))) || e.Time != "2000-01-01T00:00:00.000Z" {
					t.Errorf("%q: got %+v, want %s", c.line, e, c.want)
				}
			}
		})
	}
}

// FuzzLine checks that whatever a function prints is delivered as the string
// encoding/json would make of it, or as the object it is.
func FuzzLine(f *testing.F) {
	for _, seed := range []string{"", "x", "\xff\"\\\n", `{"a":[1,{}]}`, "{", "\u2028\U0001f600", "{}\r"} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, line []byte, asJSON bool) {
		synctest.Test(t, func(t *testing.T) {
			cfg := config()
			cfg.JSON = asJSON
			w := newWorld(t, cfg)
			r := w.receive(t, 81, nil)
			w.subscribe(t, "x", 81, function, "")
			w.hub.Function(line)
			w.hub.Flush(t.Context())
			got := r.events()
			if len(got) != 1 {
				t.Fatalf("got %+v", r.got())
			}
			if asJSON && bytes.HasPrefix(bytes.TrimLeft(line, " \t"), []byte{'{'}) && json.Valid(line) {
				if record := bytes.TrimSpace(got[0].Record); !bytes.Equal(record, bytes.TrimSpace(line)) {
					t.Errorf("got %s", record)
				}
				return
			}
			var text, want string
			quoted, err := json.Marshal(string(line))
			if err == nil {
				err = errors.Join(json.Unmarshal(quoted, &want), json.Unmarshal(got[0].Record, &text))
			}
			if err != nil || text != want {
				t.Errorf("got %q, want %q (%v)", text, want, err)
			}
		})
	})
}

func TestWithoutSubscribersAnInvokeCostsAlmostNothing(t *testing.T) {
	quiet := telemetry.New(telemetry.Config{})
	quiet.Close()
	logged := 0
	cfg := config()
	cfg.SystemLevel = slog.LevelInfo
	cfg.Sink = func(e telemetry.Event) { logged += len(e.Text) }
	logging := telemetry.New(cfg)
	logging.Close()
	now := time.Now()
	report := telemetry.Report{RequestID: "r", Status: telemetry.Success, Handed: now, Answered: now, Done: now}
	for name, h := range map[string]*telemetry.Hub{"none": nil, "quiet": quiet, "logging": logging} {
		got := testing.AllocsPerRun(1000, func() {
			h.Start("r", telemetry.Tracing{})
			h.Function([]byte("line"))
			h.Report(report)
		})
		if got > 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
	if logged == 0 {
		t.Error("nothing was logged")
	}
}

func BenchmarkReportToTheLog(b *testing.B) {
	cfg := config()
	cfg.Sink = func(telemetry.Event) {}
	h := telemetry.New(cfg)
	h.Close()
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		h.Report(telemetry.Report{RequestID: "r", Status: telemetry.Success, Handed: now, Answered: now, Done: now})
	}
}

func BenchmarkNobodyListens(b *testing.B) {
	h := telemetry.New(telemetry.Config{})
	h.Close()
	b.ReportAllocs()
	for b.Loop() {
		h.Start("r", telemetry.Tracing{})
		h.Report(telemetry.Report{RequestID: "r", Status: telemetry.Success})
	}
}
