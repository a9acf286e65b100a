package boot

import "runtime"

// heapFloor is how much a daemon's heap counts as having when it has nothing.
const heapFloor = 24 << 20

// holdHeap makes the garbage collector run as if heapFloor bytes more were in
// use, until drop is called. The heap of a daemon is a few megabytes, so it would
// be collected many times a second, for a quarter of the CPU of a busy agent. The
// bytes are never touched: they take address space and no memory; what the heap
// grows by before it is collected, it takes. GOGC and GOMEMLIMIT keep their
// meaning.
func holdHeap() (drop func()) {
	held := make([]byte, heapFloor)
	return func() { runtime.KeepAlive(held) }
}
