package logs

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

const id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"

func TestTheRequestOfALineIsFound(t *testing.T) {
	t.Parallel()
	const other = "11111111-2222-4333-8444-555555555555"
	for line, want := range map[string]string{
		// Text, as the platform and the runtimes write it.
		"START RequestId: " + id + " Version: $LATEST": id,
		"REPORT RequestId: " + id + "\tDuration: 1 ms": id,
		"RequestId:" + id: id,
		"2026-11-23T21:02:13.123Z\t" + id + "\tINFO\thello":   id, // Node
		"[INFO]\t2026-11-23T21:02:13.123Z\t" + id + "\thello": id, // Python
		"[ERROR]\t2026-11-23T21:02:13.123Z\t\thello":          "",
		"a\tb\tc\td\t" + id:           "", // too far
		id + " at the beginning":      "",
		"RequestId: " + id[:35]:       "",
		"RequestId: " + id[:35] + "x": "",
		"hello":                       "",
		"":                            "",
		// JSON.
		`{"requestId":"` + id + `"}`:                                     id, // Node, Python's extra
		`{"level":"INFO","AWSRequestId" : "` + id + `","m":1}`:           id, // Java, .NET
		` {"msg":"x","request_id":"` + id + `"}`:                         id,
		`{"function_request_id":"` + id + `"}`:                           id, // Powertools
		`{"awsRequestId":"` + id + `"}`:                                  id,
		`{"aws_request_id":"` + strings.ToUpper(id) + `"}`:               strings.ToUpper(id),
		`{"record":{"requestId":"` + id + `"}}`:                          id, // platform events
		`{"type":"x","record":{"a":{"b":[1]},"requestId":"` + id + `"}}`: id,
		`{"lambda_context":{"request_id":"` + id + `"}}`:                 id,
		`{"requestId":"` + id + `","request_id":"` + other + `"}`:        id,
		`{"a":[{"requestId":"` + other + `"}],"requestId":"` + id + `"}`: id,
		`{"a":"\"requestId\":\"` + other + `","requestId":"` + id + `"}`: id,
		`{"a":"\\","requestId":"` + id + `"}`:                            id,
		`{"requestId":"` + id + `","a":`:                                 id, // cut
		`{"requestId":"abc"}`:                                            "",
		`{"requestId":null,"x":"` + id + `"}`:                            "",
		`{"requestId":["` + id + `"]}`:                                   "",
		`{"event":{"requestId":"` + id + `"}}`:                           "",
		`{"x":"requestId","y":"` + id + `"}`:                             "",
		`{"record":["requestId","` + id + `"]}`:                          "",
		`{"requestId":"` + id:                                            "",
		`["requestId","` + id + `"]`:                                     "",
	} {
		if got := string(scan([]byte(line)).request); got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

func TestRecordsAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	var s stamp
	at := time.Date(2026, 11, 23, 23, 59, 59, 1, time.UTC)
	for i, want := range []Line{
		{Time: at, Source: Stdout, Text: []byte("x")},
		{Time: at.Add(999_999_998), Source: Platform, RequestID: id, Text: []byte("- a  b -")},
		{Time: at.Add(time.Second), Source: lost, Text: []byte("7")},
		{Time: at, Source: Stderr, Text: nil},
	} {
		record := appendRecord(nil, &s, want.Time, want.Source, []byte(want.RequestID), want.Text)
		got, err := parseRecord(bytes.TrimSuffix(record, []byte{'\n'}))
		if err != nil || !got.Time.Equal(want.Time) || got.Source != want.Source || got.RequestID != want.RequestID || !bytes.Equal(got.Text, want.Text) {
			t.Errorf("%d: got %+v %v of %s", i, got, err, record)
		}
	}
}

func FuzzScan(f *testing.F) {
	for _, line := range []string{
		"RequestId: " + id, "a\t" + id, `{"requestId":"` + id + `"}`, `{"record":{"requestId":"` + id + `"}`, `{"a":"\\\"`, `{"level":"x"}}}{{`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		before := bytes.Clone(line)
		found := scan(line)
		if found.request != nil && (!isUUID(found.request) || !bytes.Contains(line, found.request)) {
			t.Errorf("found %q in %q", found.request, line)
		}
		found.wanted(levelWarn)
		if !bytes.Equal(before, line) {
			t.Errorf("changed %q to %q", before, line)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	var s stamp
	f.Add(bytes.TrimSuffix(appendRecord(nil, &s, time.Unix(0, 0), Stdout, []byte(id), []byte("hello")), []byte{'\n'}))
	f.Add([]byte("2026-11-23T21:02:13.123456789Z ! - 7"))
	f.Add([]byte("hearth-log 1 {}"))
	f.Fuzz(func(t *testing.T, record []byte) {
		line, err := parseRecord(record)
		_, _ = parseHeader(record)
		if err != nil || bytes.ContainsRune(record, '\n') || line.Time.Year() > 9999 || line.Time.Year() < 1 {
			return
		}
		var s stamp
		again, err := parseRecord(bytes.TrimSuffix(appendRecord(nil, &s, line.Time, line.Source, []byte(line.RequestID), line.Text), []byte{'\n'}))
		if err != nil || !again.Time.Equal(line.Time) || again.RequestID != line.RequestID || !bytes.Equal(again.Text, line.Text) {
			t.Errorf("%q: got %+v, then %+v %v", record, line, again, err)
		}
	})
}
