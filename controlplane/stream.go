package controlplane

// AnswerStream is where the answer to one invoke goes as it comes. One goroutine
// calls it, and stops at the first error.
type AnswerStream interface {
	// Executing says which version is about to run. Another may, as long as the
	// answer has not begun.
	Executing(version Qualifier)
	// Begin says that the answer begins. From now on nothing is tried elsewhere.
	Begin(contentType string) error
	// Write passes on a piece, which it does not keep.
	Write(piece []byte) (int, error)
}
