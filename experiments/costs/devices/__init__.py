"""What a step on several devices computes, sends and keeps: counted, and modelled."""
