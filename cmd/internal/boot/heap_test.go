package boot

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

func TestTheHeapHasAFloorThatTakesNoMemory(t *testing.T) {
	runtime.GC()
	before := resident(t)
	drop := holdHeap()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.NextGC < 2*heapFloor {
		t.Errorf("the next collection is at %d bytes, want it above %d", m.NextGC, 2*heapFloor)
	}
	if grown := resident(t) - before; grown > heapFloor/4 {
		t.Errorf("%d bytes more are resident", grown)
	}
	drop()
}

// resident is how much memory the process takes.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
