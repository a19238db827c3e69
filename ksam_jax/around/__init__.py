"""What goes around whole methods: when which of them runs, and a loss scale."""
