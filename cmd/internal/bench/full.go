package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/cmd/internal/stack"
)

const event = `{"name":"bench"}`

// fullPath measures POSTs to the Lambda API, with one environment behind it. It
// uses plain HTTP, so that the SDK's own work is not measured.
func fullPath(ctx context.Context, w io.Writer, p params) (err error) {
	up, err := stack.Start(ctx, "--local-subnet-pool", "10.212.0.0/16")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.Stop()) }()
	api := up.Client(1)
	_, err = stack.Deploy(ctx, api, stack.Function{
		Name: function, Archive: p.archive, Subnets: []string{"subnet-a"}, MemoryMB: memoryMB, MaxConcurrency: maxConcurrency,
	})
	if err != nil {
		return up.Explain(err)
	}
	if err := keepOne(ctx, up, api, function, 1); err != nil {
		return up.Explain(err)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxConcurrency}, Timeout: 30 * time.Second}
	url := "http://" + up.Lambda + "/2015-03-31/functions/" + function + "/invocations?Qualifier=1"
	return measureAll(ctx, w, p, func(ctx context.Context) error { return post(ctx, client, url) })
}

// keepOne scales the version to one environment and waits until the stack has no
// more than all.
func keepOne(ctx context.Context, up *stack.Stack, api *lambda.Client, name string, all int) error {
	_, err := api.PutFunctionScalingConfig(ctx, &lambda.PutFunctionScalingConfigInput{
		FunctionName: aws.String(name), Qualifier: aws.String("1"),
		FunctionScalingConfig: &types.FunctionScalingConfig{
			MinExecutionEnvironments: aws.Int32(1), MaxExecutionEnvironments: aws.Int32(1),
		},
	})
	if err != nil {
		return fmt.Errorf("scaling to one environment: %w", err)
	}
	return eventually(ctx, "no more environments are left", func() (bool, error) {
		environments, err := up.Environments(ctx)
		return len(environments) == all, err
	})
}

var errTooLong = errors.New("not so after a minute")

// eventually asks until the answer is yes, for at most a minute.
func eventually(ctx context.Context, what string, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errTooLong)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if yes, err := ask(); err != nil || yes {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

func post(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(event))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Amz-Function-Error") != "" {
		return fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	return nil
}
