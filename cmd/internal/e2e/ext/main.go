// Command ext is the extension the system tests run to see it misbehave: it does
// what the variable EXT says.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	name := filepath.Base(os.Args[0])
	switch os.Getenv("EXT") {
	case "invoke": // as extensions do that know nothing of managed instances
		_, said := post("register", `{"events":["INVOKE","SHUTDOWN"]}`, "Lambda-Extension-Name", name)
		fmt.Println("registering:", said)
		_, said = post("init/error", "{}", "Lambda-Extension-Function-Error-Type", "Extension.Old")
		fmt.Println("reporting:", said)
		os.Exit(1)
	case "gives-up":
		id, _ := post("register", `{"events":[]}`, "Lambda-Extension-Name", name)
		post("init/error", `{"errorMessage":"no key"}`, "Lambda-Extension-Function-Error-Type", "Extension.NoKey", "Lambda-Extension-Identifier", id)
		os.Exit(2)
	case "exits":
		os.Exit(0)
	case "stays": // whatever it is told
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("variables:", strings.Join(variables(), " ")+", and no more")
		id, _ := post("register", `{"events":["SHUTDOWN"]}`, "Lambda-Extension-Name", name)
		_, said := get("event/next", id)
		fmt.Println("staying after", said)
		select {}
	case "fragile":
		id, _ := post("register", `{"events":["SHUTDOWN"]}`, "Lambda-Extension-Name", name)
		go get("event/next", id)
		fragile()
	}
	fmt.Println("ext: no such mode")
	os.Exit(9)
}

// fragile ends with the first connection.
func fragile() {
	l, err := net.Listen("tcp", "127.0.0.1:4244") //nolint:noctx // for as long as it takes
	if err == nil {
		_, err = l.Accept()
	}
	fmt.Println("ending:", err)
	os.Exit(5)
}

func post(path, body string, headers ...string) (id, said string) {
	return do(http.MethodPost, path, body, headers...)
}

// variables are the names of all there are of AWS's and the runtime's.
func variables() (names []string) {
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AWS_") || strings.HasPrefix(name, "_") || strings.HasPrefix(name, "LAMBDA_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func get(path, id string) (_, said string) {
	return do(http.MethodGet, path, "", "Lambda-Extension-Identifier", id)
}

func do(method, path, body string, headers ...string) (id, said string) {
	req, err := http.NewRequest(method, "http://"+os.Getenv("AWS_LAMBDA_RUNTIME_API")+"/2020-01-01/extension/"+path, bytes.NewBufferString(body)) //nolint:gosec,noctx // the Extensions API
	if err != nil {
		return "", err.Error()
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req) //nolint:gosec // the Extensions API
	if err != nil {
		return "", err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	answer, _ := io.ReadAll(resp.Body)
	return resp.Header.Get("Lambda-Extension-Identifier"), resp.Status + " " + string(answer)
}
