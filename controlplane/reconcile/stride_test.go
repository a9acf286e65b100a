//go:build !race

package reconcile_test

// crashStride is how many crash points are passed over at a time.
const crashStride = 1
