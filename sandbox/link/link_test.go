package link

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func frames() []Frame {
	return []Frame{
		{Kind: Found},
		{Kind: Found, List: []string{"a", "", "c d"}},
		{Kind: Exited, Name: "a", Code: 137, Signal: 9, OutOfMemory: true, Text: []byte("why")},
		{Kind: Exited, Code: -1, Text: []byte{}},
		{Kind: Line, Name: "a", Text: bytes.Repeat([]byte{0xff}, MaxLine)},
		{Kind: Start, Name: "b", List: []string{"A=1", "B=" + strings.Repeat("x", 100_000)}},
		{Kind: End},
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	var stream []byte
	for _, f := range frames() {
		stream = Append(stream, f)
	}
	r := NewReader(bytes.NewReader(stream))
	for _, want := range frames() {
		got, err := r.Read()
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Text) == 0 {
			got.Text, want.Text = nil, nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := r.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

func TestEveryCutFrameIsRefused(t *testing.T) {
	t.Parallel()
	whole := Append(nil, frames()[2])
	for n := 1; n < len(whole); n++ {
		if f, err := NewReader(bytes.NewReader(whole[:n])).Read(); err == nil {
			t.Errorf("%d of %d bytes: got %+v", n, len(whole), f)
		}
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	long := Append(nil, Frame{Kind: Line, Text: make([]byte, maxFrame)})
	if _, err := NewReader(bytes.NewReader(long)).Read(); !errors.Is(err, errMalformed) {
		t.Errorf("a frame that is too long: %v", err)
	}
	many := Append(nil, Frame{Kind: Found, List: make([]string, maxList+1)})
	if _, err := NewReader(bytes.NewReader(many)).Read(); !errors.Is(err, errMalformed) {
		t.Errorf("a list that is too long: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	for _, frame := range frames() {
		f.Add(Append(nil, frame))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream))
		for {
			got, err := r.Read()
			if err != nil {
				return
			}
			again, err := NewReader(bytes.NewReader(Append(nil, got))).Read()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Error(diff)
			}
		}
	})
}
