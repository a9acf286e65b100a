package lambdaapi

import (
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/containerd/errdefs"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// maxLayers is how many layers a function may have.
const maxLayers = 5

// checkLayers checks the ARNs of layers as the model has them.
func checkLayers(c *constraints, layers []string) {
	c.elements("layers", layers, 1, maxLayerARN, layerVersionPattern, layerVersionText)
}

// attachLayers gives c the layers asked for; nil leaves those it has.
func (s *Server) attachLayers(r store.Reader, c *controlplane.Config, arns []string) error {
	if arns == nil {
		return nil
	}
	if len(arns) > maxLayers {
		return invalidParameter("Cannot reference more than %d layers.", maxLayers)
	}
	c.Layers = nil // not those before, which other versions share
	seen := map[controlplane.LayerName]string{}
	for _, arn := range arns {
		ref, err := s.layerRefOf(arn)
		if err != nil {
			return err
		}
		v, err := r.LayerVersion(ref.layer, ref.number)
		if errdefs.IsNotFound(err) {
			return invalidParameter("Layer version %s does not exist.", arn)
		}
		if err != nil {
			return err
		}
		if other, twice := seen[ref.layer]; twice {
			return invalidParameter("Two different versions of the same layer are not allowed to be referenced in the same function. "+
				"%s and %s are versions of the same layer.", other, arn)
		}
		seen[ref.layer] = arn
		c.Layers = append(c.Layers, controlplane.AttachedLayer{ARN: v.ARN, Code: v.Code})
	}
	return nil
}

// fits checks that code and layers together are not too large. Archives of
// before this was written down are not counted.
func fits(v *controlplane.Version) error {
	total := v.Code.Unpacked
	for _, l := range v.Config.Layers {
		total += l.Code.Unpacked
	}
	if total > maxUnzipped && len(v.Config.Layers) > 0 {
		return invalidParameter("Function code combined with layers exceeds the maximum allowed size of %d bytes. "+
			"The actual size is %d bytes.", maxUnzipped, total)
	}
	return nil
}

func describeLayers(c *controlplane.Config) (out []types.Layer) {
	for _, l := range c.Layers {
		out = append(out, types.Layer{Arn: &l.ARN, CodeSize: int64(l.Code.Size)})
	}
	return out
}
