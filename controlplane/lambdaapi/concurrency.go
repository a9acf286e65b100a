package lambdaapi

import (
	"context"
	"math"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane/store"
)

// What GetAccountSettings says of the account. There is no limit of its own on
// invokes at once or on code: the machines and the disk are. Numbers say so with
// the greatest there are: that of an Integer, and of a Long every JSON reader can
// have.
const (
	accountConcurrency = math.MaxInt32
	accountCodeSize    = 1<<53 - 1
	// minUnreserved is how much of accountConcurrency functions cannot reserve, AWS's.
	minUnreserved = 100
)

func (s *Server) getAccountSettings(ctx context.Context, _ *lambda.GetAccountSettingsInput,
) (*lambda.GetAccountSettingsOutput, error) {
	usage := &types.AccountUsage{}
	reserved := 0
	err := s.cfg.DB.View(ctx, func(r store.Reader) error {
		*usage, reserved = types.AccountUsage{}, 0
		functions, err := r.Functions()
		if err != nil {
			return err
		}
		versions, err := r.Versions("")
		if err != nil {
			return err
		}
		usage.FunctionCount = int64(len(functions))
		for i := range functions {
			usage.TotalCodeSize += int64(functions[i].Latest.Code.Size)
			reserved += deref(functions[i].ReservedConcurrency)
		}
		for i := range versions {
			usage.TotalCodeSize += int64(versions[i].Code.Size)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &lambda.GetAccountSettingsOutput{
		AccountUsage: usage,
		AccountLimit: &types.AccountLimit{
			CodeSizeUnzipped: maxUnzipped, CodeSizeZipped: maxZip, TotalCodeSize: accountCodeSize,
			ConcurrentExecutions:           accountConcurrency,
			UnreservedConcurrentExecutions: new(int32(accountConcurrency - reserved)),
		},
	}, nil
}

// wholeFunction reads the name of a function for what holds for it with all its
// versions.
func (s *Server) wholeFunction(name *string) (reference, error) {
	ref, err := s.function(name, nil, 140)
	if err == nil && ref.Qualifier != "" {
		err = invalidParameter("This operation is permitted on Lambda functions only. Aliases and versions do not support " +
			"this operation. Please specify either a function name or an unqualified function ARN.")
	}
	return ref, err
}

func (s *Server) putFunctionConcurrency(ctx context.Context, in *lambda.PutFunctionConcurrencyInput,
) (*lambda.PutFunctionConcurrencyOutput, error) {
	var c constraints
	c.required("reservedConcurrentExecutions", in.ReservedConcurrentExecutions != nil)
	between(&c, "reservedConcurrentExecutions", in.ReservedConcurrentExecutions, 0, math.MaxInt32)
	if err := c.err(); err != nil {
		return nil, err
	}
	ref, err := s.wholeFunction(in.FunctionName)
	if err != nil {
		return nil, err
	}
	asked := int(*in.ReservedConcurrentExecutions)
	err = s.update(ctx, func(w store.Writer) error {
		f, err := s.editable(w, ref, nil)
		if err != nil {
			return unlessMissing(err, "Function not found: %s", s.qualifiedARN(ref))
		}
		functions, err := w.Functions()
		if err != nil {
			return err
		}
		left := accountConcurrency - asked + deref(f.ReservedConcurrency)
		for i := range functions {
			left -= deref(functions[i].ReservedConcurrency)
		}
		if left < minUnreserved {
			return invalidParameter("Specified ReservedConcurrentExecutions for function decreases account's "+
				"UnreservedConcurrentExecution below its minimum value of [%d].", minUnreserved)
		}
		f.ReservedConcurrency = &asked
		return w.PutFunction(*f)
	})
	if err != nil {
		return nil, err
	}
	return &lambda.PutFunctionConcurrencyOutput{ReservedConcurrentExecutions: in.ReservedConcurrentExecutions}, nil
}

func (s *Server) getFunctionConcurrency(ctx context.Context, in *lambda.GetFunctionConcurrencyInput,
) (*lambda.GetFunctionConcurrencyOutput, error) {
	ref, err := s.wholeFunction(in.FunctionName)
	if err != nil {
		return nil, err
	}
	out := &lambda.GetFunctionConcurrencyOutput{}
	err = s.cfg.DB.View(ctx, func(r store.Reader) error {
		f, err := s.readFunction(r, ref)
		if err == nil {
			out.ReservedConcurrentExecutions = small(f.ReservedConcurrency)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) deleteFunctionConcurrency(ctx context.Context, in *lambda.DeleteFunctionConcurrencyInput) error {
	ref, err := s.wholeFunction(in.FunctionName)
	if err != nil {
		return err
	}
	return s.update(ctx, func(w store.Writer) error {
		f, err := s.editable(w, ref, nil)
		if err != nil {
			return err
		}
		f.ReservedConcurrency = nil
		return w.PutFunction(*f)
	})
}
