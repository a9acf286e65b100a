// Command apidoc writes the reference of the Lambda API from the table the
// server itself uses.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
)

func main() {
	out := flag.String("o", "docs/api.md", "the file to write")
	check := flag.Bool("check", false, "write nothing; fail if the file is not current")
	flag.Parse()
	if err := run(*out, *check); err != nil {
		fmt.Fprintln(os.Stderr, "apidoc:", err)
		os.Exit(1)
	}
}

func run(out string, check bool) error {
	text := reference(lambdaapi.Operations())
	if !check {
		return os.WriteFile(out, text, 0o644) //nolint:gosec // G306: documentation is for everybody to read
	}
	have, err := os.ReadFile(out) //nolint:gosec // G304: whoever runs this names the file
	if err != nil {
		return err
	}
	if !bytes.Equal(have, text) {
		return fmt.Errorf(`%s is not what the server does; run "make generate"`, out)
	}
	return nil
}

const preamble = `# The Lambda API

Written by ` + "`make generate`" + ` from the table of operations that the server itself uses: every operation of the SDK's
model of Lambda, by name.

| state | what it means | operations |
|---|---|---|
`

const after = `
The 501 is a ` + "`NotImplementedException`" + ` that names the operation; no AWS SDK retries it. What is kept and returned only
never changes what runs: permissions neither allow nor deny, every caller may do everything, and the event-invoke
configuration waits for asynchronous invokes.

Lists end with a NextMarker while there is more. It stays valid when something is added or deleted meanwhile; one that is
not ours is an ` + "`InvalidParameterValueException`" + `. What else differs from AWS, whatever the operation, is in the
[architecture](architecture.md#differences-from-aws).

## Throttles

An invoke that finds no room waits for it a little (` + "`--invoke-wait`" + `), then it is a 429 ` + "`TooManyRequestsException`" + ` with
Retry-After. Its ` + "`Reason`" + ` is what most of the environments that refused it were short of; of those as common the one
further down.

| Reason | what it means |
|---|---|
`

const operationsHead = `
## Operations

| operation | method and path | state | note |
|---|---|---|---|
`

// reasons are the exact values of Reason in a 429, and what they mean.
func reasons() [][2]string {
	return [][2]string{
		{string(controlplane.ThrottleConcurrency), "every environment is at its concurrency limit, or none is ready: the message says which"},
		{string(controlplane.ThrottleCPU), "the environments, or their instances, are short of CPU"},
		{string(controlplane.ThrottleDisk), "they are short of space on /tmp or on the instance's disk"},
		{string(controlplane.ThrottleMemory), "they are short of memory"},
		{string(controlplane.ThrottleReserved), "the function runs as many invokes as are reserved for it; none waits"},
		{string(types.ThrottleReasonCallerRateLimitExceeded), "the bodies of other requests take all the memory that --body-memory allows"},
	}
}

// meanings says what the states mean, in the order to show them.
func meanings() [][2]string {
	return [][2]string{
		{string(lambdaapi.Works), "as at AWS, but for the note"},
		{string(lambdaapi.StoredOnly), "what it sets is kept and returned, and nothing acts on it"},
		{string(lambdaapi.Absent), "501: in the [scope](SCOPE.md) and not there yet"},
		{string(lambdaapi.Refused), "501: not in the [scope](SCOPE.md)"},
	}
}

// reference returns the whole document.
func reference(operations []lambdaapi.Operation) []byte {
	count := map[string]int{}
	for _, op := range operations {
		count[string(op.State)]++
	}
	var b bytes.Buffer
	b.WriteString(preamble)
	for _, m := range meanings() {
		fmt.Fprintf(&b, "| %s | %s | %d |\n", m[0], m[1], count[m[0]])
	}
	b.WriteString(after)
	for _, r := range reasons() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r[0], r[1])
	}
	b.WriteString(operationsHead)
	slices.SortFunc(operations, func(x, y lambdaapi.Operation) int { return strings.Compare(x.Name, y.Name) })
	for _, op := range operations {
		fmt.Fprintf(&b, "| %s | `%s %s` | %s | %s |\n", op.Name, op.Method, op.Path, op.State, strings.TrimSpace(op.Note))
	}
	return b.Bytes()
}
