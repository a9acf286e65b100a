// Command caller is a function that uses AWS's SDK as functions do: it answers
// the access key of the credentials that the SDK finds by itself, or why it
// finds none.
package main

import (
	"context"
	"os"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/config"
)

// answer is what the function answers.
type answer struct {
	AccessKey string
	// Error is why there is no access key.
	Error string
	// Variables are the names of those that SDKs look at.
	Variables []string
}

func handle(ctx context.Context) (answer, error) {
	var a answer
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "AWS_CONTAINER_") || strings.HasPrefix(name, "AWS_ACCESS_") || strings.HasPrefix(name, "AWS_SE") {
			a.Variables = append(a.Variables, name)
		}
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return a, err
	}
	c, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		a.Error = err.Error()
	}
	a.AccessKey = c.AccessKeyID
	return a, nil
}

func main() { lambda.Start(handle) }
