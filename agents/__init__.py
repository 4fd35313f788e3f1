"""The deciders: rules, trained policies, and the loop that runs them."""
