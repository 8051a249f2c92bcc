"""What a network looks at: attributions for any ``nn.Module``, checks that they mean something, and averages along an axis."""
